"""Logits of all pairs of residues from one hidden layer, by ``kernels/pairs.c``: without the hidden layer of any pair.

L residues, H hidden size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import load_kernels
from proteinlm.models.kernels.threads import share

ROWS = 64
"""Rows of the logits that a thread takes at once. Each set has a gradient of its own, which are then summed: so the sum does
not depend on the number of threads."""
FILLED = 16
"""What is read a vector at a time is filled up to a multiple of it, the longest vector."""


def is_faster(first: Tensor, dropout: float) -> bool:
    """Whether to take it for `first` (L, H): where it can be, it is, but it drops nothing out."""
    return first.device.type == "cpu" and first.dtype == torch.float32 and not dropout and load_kernels() is not None


def logits(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``weight . tanh(first_i + second_j) + bias``, (L, L), of `first` and `second` (L, H), `weight` (H,), `bias` ()."""
    output = _Logits.apply(first, second, weight, bias)
    assert isinstance(output, Tensor)
    return output


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(first, second, weight)
        length, hidden = first.shape
        one, factor, offset = first.contiguous(), weight.contiguous(), float(bias)
        other = F.pad(second.T, (0, -length % FILLED)).contiguous()  # (H, P)
        output = first.new_empty(length, length)
        function = _function("pairs_forward")

        def work(begin: int, end: int) -> None:
            rows = begin * ROWS, min(end * ROWS, length)
            addresses = one.data_ptr(), other.data_ptr(), factor.data_ptr(), offset, output.data_ptr()
            function(*addresses, *rows, length, other.shape[1], hidden)

        share(work, [ROWS] * -(-length // ROWS))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        one, other, factor = (_filled(x) for x in ctx.saved_tensors)
        hidden, (length, width) = ctx.saved_tensors[0].shape[1], one.shape
        sets = -(-length // ROWS)
        given, of_one = upstream.contiguous(), torch.empty_like(one)
        of_other, of_factor = one.new_empty(sets, length, width), one.new_empty(sets, width)
        function = _function("pairs_backward")

        def work(begin: int, end: int) -> None:
            for each in range(begin, end):
                rows = each * ROWS, min((each + 1) * ROWS, length)
                tensors = one, other, factor, given, of_one, of_other[each], of_factor[each]
                function(*(x.data_ptr() for x in tensors), *rows, length, width)

        share(work, [ROWS] * sets)
        return of_one[:, :hidden], of_other.sum(0)[:, :hidden], of_factor.sum(0)[:hidden], upstream.sum()


def _filled(x: Tensor) -> Tensor:
    """X (..., H) with zeros behind, (..., P)."""
    return F.pad(x, (0, -x.shape[-1] % FILLED)).contiguous()


def _function(name: str) -> Any:
    return getattr(load_kernels(), name)
