"""Small baselines with random weights, and proteins to run them on."""

import torch
from torch import Tensor, nn

from proteinlm import vocabulary
from proteinlm.config import (
    BaselineConfig,
    LSTMConfig,
    OneHotConfig,
    PostNormConfig,
    ProtVecConfig,
    ResNetConfig,
    UniRepConfig,
)
from proteinlm.models import registry

TINY: dict[str, BaselineConfig] = {
    "one_hot": OneHotConfig(max_positions=128),
    "lstm": LSTMConfig(32, 2, max_positions=128, dropout=0.0, embedding_size=12),
    "resnet": ResNetConfig(24, 3, max_positions=128, dropout=0.0, kernel_size=5, dilation=2),
    "post_norm": PostNormConfig(32, 2, 4, max_positions=128, dropout=0.0),
    "unirep": UniRepConfig(20, max_positions=128),
    "protvec": ProtVecConfig(16, max_positions=128),
}


def backbone(config: BaselineConfig) -> nn.Module:
    """In evaluation mode, far enough from its initial weights that every one of them matters."""
    torch.manual_seed(0)
    made = registry.build(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def proteins(lengths: tuple[int, ...]) -> list[Tensor]:
    """Tokens of proteins of so many tokens, some of them masked."""
    draw = torch.Generator().manual_seed(1)
    drawn = [torch.randint(6, 31, (length,), generator=draw) for length in lengths]
    for protein in drawn:
        protein[torch.rand(len(protein), generator=draw) < 0.1] = vocabulary.MASK
        protein[0] = vocabulary.CLS
    return drawn


def states(backbone: nn.Module, packed: list[Tensor], fillers: int = 0) -> list[Tensor]:
    """Hidden states of each protein, packed in this order, with empty fillers at the end."""
    lengths = [len(protein) for protein in packed]
    starts = torch.tensor([0, *lengths, *[0] * fillers]).cumsum(0).int()
    with torch.no_grad():
        return list(backbone(torch.cat(packed), starts, max(lengths)).split(lengths))
