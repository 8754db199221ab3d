"""Every head that a task offers, found through the tasks, so that a new one is tested as soon as it can be chosen; and
proteins to hold one against its plain form.
"""

import torch
from torch import Tensor

from proteinlm.config import CustomTaskConfig, LabelledTaskConfig, ModelConfig, SecondaryStructureConfig
from proteinlm.config.tasks import KINDS
from proteinlm.models.heads import Head
from proteinlm.tasks import TASKS, module_of

HIDDEN = 24
LENGTHS = (9, 2, 17, 6)  # tokens, [CLS] included

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


def packed(lengths: tuple[int, ...] = LENGTHS, hidden_size: int = HIDDEN) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return torch.randn(sum(lengths), hidden_size, generator=generator, requires_grad=True), starts


def gradients(outputs: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a sum in which every output counts differently."""
    total = sum((output * torch.arange(output.numel()).view_as(output).cos()).sum() for output in outputs)
    return torch.autograd.grad(total, inputs)


def assert_same(outputs: list[Tensor], references: list[Tensor], *inputs: Tensor) -> None:
    for output, reference in zip(outputs, references, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(outputs, *inputs), gradients(references, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))
