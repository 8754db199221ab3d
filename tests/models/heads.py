"""Every head that a task offers, found through the tasks, so that a new one is tested as soon as it can be chosen."""

import torch

from proteinlm.config import CustomTaskConfig, LabelledTaskConfig, ModelConfig, SecondaryStructureConfig
from proteinlm.config.tasks import KINDS
from proteinlm.models.heads import Head
from proteinlm.tasks import TASKS, module_of

CONFIGS: list[LabelledTaskConfig] = [
    *(LabelledTaskConfig(name) for name in TASKS if name != "secondary_structure"),
    SecondaryStructureConfig("secondary_structure"),
    *(CustomTaskConfig("custom", kind=kind, classes=["a", "b"]) for kind in KINDS),
]


def task_heads(model: ModelConfig) -> dict[str, Head]:
    """The heads on a backbone of this shape, with random weights, by the task and its option ``task.head``."""
    torch.manual_seed(0)
    return {
        f"{config.name}-{getattr(config, 'kind', '')}{name}": make()
        for config in CONFIGS
        for name, make in module_of(config).heads(config, model).items()
    }


def concrete(kind: type) -> set[type]:
    """The subclasses of `kind` that can be built."""
    below = {each for subclass in kind.__subclasses__() for each in concrete(subclass)}
    return below if getattr(kind, "__abstractmethods__", None) else below | {kind}
