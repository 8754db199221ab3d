"""Self-attention by functions in C, for CPUs: ``kernels/attention.c``, and ``kernels/attention_bf16.c`` on processors that
multiply in bfloat16.

PyTorch's products are made for large matrices. Those of a protein of 60 residues with heads of 8 numbers are so small that
calling them, and bringing them into shape, takes longer than they do.

T tokens of all proteins laid end to end, B proteins, N heads, D head dimension. K queries.
"""

import math
from itertools import accumulate, chain, repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import has_bf16_products, load_kernels, share

LONGEST = 1024
"""Tokens of the longest protein that ``attention.c`` takes, whose backward pass works on two matrices of their square."""
WIDEST = {torch.float32: 64, torch.bfloat16: 16}
"""Head dimensions up to which ``attention.c`` is faster than products. It computes in float32, so products in bfloat16 win
earlier.
"""


def longest(joint: Tensor) -> float:
    """Tokens of the longest protein of `joint` (T, N, 3, D) whose attention to compute here; 0 where PyTorch is faster."""
    suits = _in_bf16(joint) or joint.shape[-1] <= WIDEST.get(joint.dtype, 0)
    if not suits or joint.device.type != "cpu" or load_kernels() is None:
        return 0
    return math.inf if _in_bf16(joint) else LONGEST


def attend(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]], wanted: Tensor | None = None) -> Tensor:
    """Attention (T, N, D) of `joint` (T, N, 3, D), queries, keys and values, within each protein of `runs`.

    `runs` are neighbours of equal length, as (proteins, tokens of each). With `rotation` (T, 1, 1, D / 2, 2) float32,
    queries and keys are turned first. If tokens are `wanted` (K,) int64, they alone are queries: (K, N, D).
    """
    lengths = list(chain.from_iterable(repeat(length, count) for count, length in runs))
    back = None
    if wanted is not None and bool((wanted.diff() <= 0).any()):
        wanted, back = wanted.unique(return_inverse=True)
    output = _Attention.apply(joint.contiguous(), rotation, lengths, wanted)
    assert isinstance(output, Tensor)
    return output if back is None else output.index_select(0, back)


class _Attention(torch.autograd.Function):
    """Keeps two numbers of each query, from which the weights are made again."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, rotation: Tensor | None, lengths: list[int], wanted: Tensor | None) -> Tensor:
        _, number, _, dim = joint.shape
        ends = asked = torch.tensor(list(accumulate(lengths)))  # (B,)
        if wanted is not None:
            asked = torch.searchsorted(wanted, ends)  # (B,): where the queries of each protein end
            if len(wanted) and (asked[-1] < len(wanted) or wanted[0] < 0):
                raise IndexError(f"tokens {wanted[0]} to {wanted[-1]} are wanted of {ends[-1]}")
        # of queries: all tokens of a protein, or those that are wanted of it
        counts = lengths if wanted is None else asked.diff(prepend=asked.new_zeros(1)).tolist()
        queries = sum(counts)
        output = joint.new_empty(queries, number, dim)
        kept = torch.empty(2, number, queries)
        turns = None if rotation is None else rotation.contiguous()
        _call("forward", (joint, turns, wanted, output, kept, ends, asked), lengths, counts, joint)
        ctx.save_for_backward(joint, turns, wanted, output, kept, ends, asked)
        ctx.lengths, ctx.counts = lengths, counts
        return output

    @staticmethod
    @once_differentiable  # whose types forget the signature; without it a second derivative would be wrong in silence
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        joint, turns, wanted, output, kept, ends, asked = ctx.saved_tensors
        gradient = torch.empty_like(joint) if wanted is None else torch.zeros_like(joint)
        tensors = (joint, turns, wanted, output, kept, upstream.contiguous(), gradient, ends, asked)
        _call("backward", tensors, ctx.lengths, ctx.counts, joint)
        return gradient, None, None, None


def _in_bf16(joint: Tensor) -> bool:
    """Whether ``attention_bf16.c`` takes it."""
    return joint.dtype == torch.bfloat16 and has_bf16_products()


def _call(
    direction: str, tensors: tuple[Tensor | None, ...], lengths: list[int], counts: list[int], joint: Tensor
) -> None:
    compiled = load_kernels()
    assert compiled is not None
    _, number, _, dim = joint.shape
    total = sum(counts)
    in_bf16 = _in_bf16(joint)
    name = f"attention{'_bf16' if in_bf16 else ''}_{direction}"
    function, space = getattr(compiled, name), getattr(compiled, f"{name}_space")
    is_bf16 = () if in_bf16 else (joint.dtype == torch.bfloat16,)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space(max(lengths), dim))
        function(*addresses, first, last, total, number, dim, *is_bf16, dim**-0.5, room.data_ptr())

    share(work, [length * (count + 1) for length, count in zip(lengths, counts, strict=True)])
