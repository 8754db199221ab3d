"""Small models with random weights, saved as a run saves them."""

from pathlib import Path

import torch

from proteinlm import checkpoint
from proteinlm.config import ModelConfig
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead

CONFIG = ModelConfig(32, 2, 4, max_positions=128)


def saved(directory: Path, config: ModelConfig = CONFIG, *, head: bool = True) -> Path:
    """Weights far enough from their initial values that no two proteins are alike."""
    torch.manual_seed(0)
    modules: dict[str, torch.nn.Module] = {"backbone": Backbone(config)}
    if head:
        modules["head"] = LanguageModelHead(config)
    with torch.no_grad():
        for module in modules.values():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    checkpoint.save_weights(directory, modules, config)
    return directory
