"""GELU: PyTorch's, or of its tanh approximation on CPUs the faster ``kernels/gelu.c``."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import load_kernels
from proteinlm.models.kernels.threads import share

PIECE = 2**16
"""Numbers that a thread takes at once."""
SUFFIXES = {torch.float32: "", torch.bfloat16: "_bf16"}
"""What the names of the functions in C end with, by the type of their numbers."""


def gelu(x: Tensor, approximate: str) -> Tensor:
    """``x / 2 (1 + erf(x / sqrt(2)))`` of each number, or with `approximate` ``tanh`` the usual formula close to it."""
    suits = approximate == "tanh" and x.device.type == "cpu" and x.dtype in SUFFIXES
    if suits and not torch.compiler.is_compiling() and load_kernels():
        output = _Gelu.apply(x.contiguous())
        assert isinstance(output, Tensor)
        return output
    return F.gelu(x, approximate=approximate)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        output = torch.empty_like(x)
        _call("gelu_forward", x, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        gradient = torch.empty_like(x)
        _call("gelu_backward", x, upstream.contiguous(), gradient)
        return gradient


def _call(name: str, *tensors: Tensor) -> None:
    function, count = getattr(load_kernels(), name + SUFFIXES[tensors[0].dtype]), tensors[0].numel()

    def work(first: int, last: int) -> None:
        begin = first * PIECE
        function(*(x.data_ptr() + begin * x.element_size() for x in tensors), min(last * PIECE, count) - begin)

    share(work, [PIECE] * -(-count // PIECE))
