"""Self-attention by functions in C, for CPUs: ``kernels/attention.c``, and ``kernels/attention_bf16.c`` on processors that
multiply in bfloat16.

PyTorch's products are made for large matrices. Those of a protein of 60 residues with heads of 8 numbers are so small that
calling them, and bringing them into shape, takes longer than they do.

T tokens of all proteins laid end to end, B proteins, N heads, D head dimension.
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


def attend(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
    """Attention (T, N, D) of `joint` (T, N, 3, D), queries, keys and values, within each protein of `runs`.

    `runs` are neighbours of equal length, as (proteins, tokens of each). With `rotation` (T, 1, 1, D / 2, 2) float32,
    queries and keys are turned first.
    """
    lengths = list(chain.from_iterable(repeat(length, count) for count, length in runs))
    output = _Attention.apply(joint.contiguous(), rotation, lengths)
    assert isinstance(output, Tensor)
    return output


class _Attention(torch.autograd.Function):
    """Keeps two numbers of each query, from which the weights are made again."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, rotation: Tensor | None, lengths: list[int]) -> Tensor:
        tokens, number, _, dim = joint.shape
        output = joint.new_empty(tokens, number, dim)
        kept = torch.empty(2, number, tokens)
        ends = torch.tensor(list(accumulate(lengths)))  # (B,)
        turns = None if rotation is None else rotation.contiguous()
        _call("forward", (joint, turns, output, kept, ends), lengths, joint)
        ctx.save_for_backward(joint, turns, output, kept, ends)
        ctx.lengths = lengths
        return output

    @staticmethod
    @once_differentiable  # whose types forget the signature; without it a second derivative would be wrong in silence
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        joint, turns, output, kept, ends = ctx.saved_tensors
        gradient = torch.empty_like(joint)
        _call("backward", (joint, turns, output, kept, upstream.contiguous(), gradient, ends), ctx.lengths, joint)
        return gradient, None, None


def _in_bf16(joint: Tensor) -> bool:
    """Whether ``attention_bf16.c`` takes it."""
    return joint.dtype == torch.bfloat16 and has_bf16_products()


def _call(direction: str, tensors: tuple[Tensor | None, ...], lengths: list[int], joint: Tensor) -> None:
    compiled = load_kernels()
    assert compiled is not None
    tokens, number, _, dim = joint.shape
    in_bf16 = _in_bf16(joint)
    name = f"attention{'_bf16' if in_bf16 else ''}_{direction}"
    function, space = getattr(compiled, name), getattr(compiled, f"{name}_space")
    is_bf16 = () if in_bf16 else (joint.dtype == torch.bfloat16,)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space(max(lengths), dim))
        function(*addresses, first, last, tokens, number, dim, *is_bf16, dim**-0.5, room.data_ptr())

    share(work, [length * length for length in lengths])
