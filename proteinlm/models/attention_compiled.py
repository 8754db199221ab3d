"""Self-attention by functions in C, for CPUs: ``kernels/attention.c``, and with AVX-512 ``kernels/fused_attention.h``.

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

from proteinlm.models.kernels.compiler import has_avx512, has_bf16_products, load_kernels
from proteinlm.models.kernels.layers import as_tensor
from proteinlm.models.kernels.threads import share

LONGEST = 1024
"""Tokens of the longest protein that ``attention.c`` takes, whose backward pass works on two matrices of their square."""
WIDEST = {torch.float32: 64, torch.bfloat16: 16}
"""Head dimensions up to which ``attention.c`` is faster than products. It computes in float32, so products in bfloat16 win
earlier.
"""
NARROWEST = 12
"""Head dimension in float32 from which on ``fused_attention.h``, which fills heads up to a multiple of 16, is faster."""

LINEAR = 32
"""Queries whose products cost about as much as what is done once for each token."""


def longest(x: Tensor) -> float:
    """Tokens of the longest protein whose attention to compute here, with heads as x (..., D) has them; 0 where PyTorch is
    faster.
    """
    if x.device.type != "cpu" or load_kernels() is None:
        return 0
    if _suffix(x):
        return math.inf
    return LONGEST if x.shape[-1] <= WIDEST.get(x.dtype, 0) else 0


def _suffix(x: Tensor) -> str:
    """What the names of the functions for heads as x (..., D) has them end with: nothing where they are those of
    ``attention.c``.
    """
    if x.dtype == torch.bfloat16 and has_bf16_products():
        return "_bf16"
    return "_fp32" if x.dtype == torch.float32 and x.shape[-1] >= NARROWEST and has_avx512() else ""


def attend(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
    """Attention (T, N, D) of `joint` (T, N, 3, D), queries, keys and values, within each protein of `runs`.

    `runs` are neighbours of equal length, as (proteins, tokens of each). With `rotation` (T, 1, 1, D / 2, 2) float32,
    queries and keys are turned first.
    """
    return as_tensor(_Attention.apply(None, joint.contiguous(), rotation, _lengths(runs), None))


def attend_few(
    query: Tensor, others: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]], wanted: Tensor
) -> Tensor:
    """Attention (K, N, D) of the tokens `wanted` (K,) int64, in rising order and as often as they are there, within each
    protein of `runs`.

    `query` (K, N, D) are their queries, `others` (T, N, 2, D) the keys and values of all tokens.
    """
    return as_tensor(_Attention.apply(query.contiguous(), others.contiguous(), rotation, _lengths(runs), wanted))


def _lengths(runs: list[tuple[int, int]]) -> list[int]:
    return list(chain.from_iterable(repeat(length, count) for count, length in runs))


class _Attention(torch.autograd.Function):
    """Keeps two numbers of each query, from which the weights are made again. Without queries, `others` has them too."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor | None,
        others: Tensor,
        rotation: Tensor | None,
        lengths: list[int],
        wanted: Tensor | None,
    ) -> Tensor:
        _, number, _, dim = others.shape
        ends = asked = torch.tensor(list(accumulate(lengths)))  # (B,)
        if wanted is not None:
            asked = torch.searchsorted(wanted, ends)  # (B,): where the queries of each protein end
            if len(wanted) and (asked[-1] < len(wanted) or wanted[0] < 0):
                raise IndexError(f"tokens {wanted[0]} to {wanted[-1]} are wanted of {ends[-1]}")
        # of queries: all tokens of a protein, or those that are wanted of it
        counts = lengths if wanted is None else asked.diff(prepend=asked.new_zeros(1)).tolist()
        queries = sum(counts)
        output = others.new_empty(queries, number, dim)
        kept = torch.empty(2, number, queries)
        turns = None if rotation is None else rotation.contiguous()
        tensors = (*_with_queries(query, others), turns, wanted, output, kept, ends, asked)
        _call("forward", tensors, lengths, counts, others)
        ctx.save_for_backward(query, others, turns, wanted, output, kept, ends, asked)
        ctx.lengths, ctx.counts = lengths, counts
        return output

    @staticmethod
    @once_differentiable  # whose types forget the signature; without it a second derivative would be wrong in silence
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, others, *rest, ends, asked = ctx.saved_tensors
        of_query, of_others = None if query is None else torch.empty_like(query), torch.empty_like(others)
        gradients = _with_queries(of_query, of_others)
        tensors = (*_with_queries(query, others), *rest, upstream.contiguous(), *gradients, ends, asked)
        _call("backward", tensors, ctx.lengths, ctx.counts, others)
        return of_query, of_others, None, None, None


def _with_queries(query: Tensor | None, others: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, and keys and values (T, N, 2, D), which are parts of (T, N, 3, D) if there is no `query`."""
    return (others, others[:, :, 1:]) if query is None else (query, others)


def _call(
    direction: str, tensors: tuple[Tensor | None, ...], lengths: list[int], counts: list[int], others: Tensor
) -> None:
    compiled = load_kernels()
    assert compiled is not None
    _, number, parts, dim = others.shape
    apart = parts * dim if parts == 3 else dim, parts * dim  # from one head to the next
    total, suffix = sum(counts), _suffix(others)
    function = getattr(compiled, f"attention_{direction}{suffix}")
    space = getattr(compiled, f"attention_{direction}_space{suffix}")
    is_bf16 = () if suffix else (others.dtype == torch.bfloat16,)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space(max(*lengths, *counts), dim))
        function(*addresses, first, last, total, number, dim, *apart, *is_bf16, dim**-0.5, room.data_ptr())

    costs = [length * (count + LINEAR) for length, count in zip(lengths, counts, strict=True)]
    share(work, [cost for cost in costs for _ in range(number)])
