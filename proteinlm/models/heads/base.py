"""What the heads of the downstream tasks have in common. Pure PyTorch.

A task head takes hidden states (T, H) and `starts` (B + 1,) of packed proteins. Both must hold real proteins only, without
the filler that ends a packed stream: pass ``hidden[:tokens]`` and ``starts[: proteins + 1]``. A protein's output does not
depend on what it is packed with; the exceptions are dropout and, in training, the batch normalisation of
`ResidueConvolution` and the running means of `ProteinPositions`.

The defaults are the paper's multilayer perceptrons (ProteinLM ``megatron/model/*classification.py``). The others are TAPE's
and those of the authors' fork of TAPE (``tape/models/modeling_utils.py``), which gave part of the published numbers.
Layers keep PyTorch's initial weights. At a width of 1024 their standard deviation is 0.018, which Megatron rounds to 0.02;
unlike Megatron's they suit narrow models too.

T tokens, B proteins, H hidden size, C classes.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Head(nn.Module, ABC):
    """The outputs of a downstream task, from packed proteins.

    A head computes in the precision of its own weights, whatever automatic mixed precision the backbone runs under: most
    scores are rankings, and bfloat16 outputs tie by the hundred.
    """

    reads_cls_alone: ClassVar[bool] = False
    """Whether it looks at no other state of a protein: then it may be given those of [CLS], as proteins of one token."""

    def forward(self, hidden: Tensor, starts: Tensor) -> Tensor | list[Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.predict(hidden.to(next(self.parameters()).dtype), starts)

    @abstractmethod
    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor | list[Tensor]:
        """The outputs for hidden states (T, H) of proteins bounded by `starts` (B + 1,)."""


class TanhMLP(Head, ABC):
    """Linear, tanh, dropout, linear: a head of one hidden layer."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def mlp(self, x: Tensor) -> Tensor:
        """All layers on rows x (..., H): (..., C)."""
        x = self.dense(x).tanh()  # (..., H)
        return self.output(self.dropout(x))  # (..., C)


class WeightNorm(nn.Module):
    """A weight as one gain for the whole tensor times its direction: TAPE's ``weight_norm(dim=None)``.

    PyTorch's own version keeps the gain as a scalar, which FSDP2 refuses to shard.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        return direction * (gain / direction.norm())

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.norm().reshape(1), weight
