"""Self-attention over short proteins as batched matrix products, for CPUs.

PyTorch's kernel for CPUs takes longer than the products that it is made of, up to `config.scored` tokens. What surrounds
them, turning by positions and laying out by heads, is done here in blocks that stay in a core's cache, in the backward
pass too, which writes one gradient.

T tokens of all proteins laid end to end, N heads, D head dimension.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2048
"""Tokens, or one protein if it has more, whose scores and heads are held at once."""


class Block(NamedTuple):
    """Proteins of equal length, laid end to end."""

    start: int
    """Its first token."""
    proteins: int
    length: int
    """Tokens of each."""

    def of(self, x: Tensor) -> Tensor:
        """Its part of x (T, ...): (proteins, length, ...)."""
        return x[self.start : self.start + self.proteins * self.length].unflatten(0, (self.proteins, self.length))


def blocks(runs: list[tuple[int, int]]) -> Iterator[Block]:
    """Cut `runs`, each (proteins, tokens of each), laid end to end."""
    start = 0
    for count, length in runs:
        most = max(1, BLOCK // length)
        for first in range(0, count, most):
            some = min(most, count - first)
            yield Block(start, some, length)
            start += some * length


def attend(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
    """Attention (T, N, D) of `joint` (T, N, 3, D), queries, keys and values, within each protein of `runs`.

    With `rotation` (T, 1, 1, D / 2, 2) float32, queries and keys are turned first.
    """
    with torch.autocast(joint.device.type, enabled=False):  # which would take the softmax to float32 and back
        output = _Attention.apply(joint, rotation, runs)
    assert isinstance(output, Tensor)
    return output


class _Attention(torch.autograd.Function):
    """Keeps the heads as the products take them, and the (L, L) weights of each. B proteins of L tokens in a block."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
        tokens, number, _, dim = joint.shape
        output = joint.new_empty(tokens, number, dim)
        kept: list[Tensor] = []
        for block in blocks(runs):
            heads = _by_head(block.of(joint), None if rotation is None else block.of(rotation))
            query, key, value = heads.flatten(1, 2)  # (B N, L, D) each
            weights = _product(query, key.mT, dim).softmax(-1)
            block.of(output).copy_(torch.bmm(weights, value).view_as(heads[0]).transpose(1, 2))
            if ctx.needs_input_grad[0]:
                kept += (heads, weights)
        ctx.save_for_backward(*kept, *(() if rotation is None else (rotation,)))
        ctx.runs = runs
        return output

    @staticmethod
    @once_differentiable  # whose types forget the signature; without it a second derivative would be wrong in silence
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        tokens, number, dim = upstream.shape
        joint = upstream.new_empty(tokens, number, 3, dim)
        saved = ctx.saved_tensors
        kept, rotation = iter(saved), saved[-1] if len(saved) % 2 else None
        for block in blocks(ctx.runs):
            heads, weights = next(kept), next(kept)
            query, key, value = heads.flatten(1, 2)
            given = block.of(upstream).transpose(1, 2).flatten(0, 1)  # (B N, L, D)
            scores = torch._softmax_backward_data(torch.bmm(given, value.mT), weights, -1, weights.dtype)
            gradients = (_product(scores, key, dim), _product(scores.mT, query, dim), torch.bmm(weights.mT, given))
            _lay_back(block.of(joint), gradients, None if rotation is None else block.of(rotation))
        return joint, None, None


def _product(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """The batched product of a and b, divided by the root of `dim` on the way."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=dim**-0.5)


def _by_head(joint: Tensor, rotation: Tensor | None) -> Tensor:
    """Queries and keys, turned, and values: (3, B, N, L, D) of `joint` (B, L, N, 3, D)."""
    batch, length, number, _, dim = joint.shape
    heads = joint.new_empty(3, batch, number, length, dim)
    if rotation is None:
        return heads.copy_(joint.permute(3, 0, 2, 1, 4))
    turned = torch.empty(batch, length, number, 2, dim).copy_(joint[..., :2, :])
    torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(torch.view_as_complex(rotation))
    heads[:2].copy_(turned.permute(3, 0, 2, 1, 4))
    heads[2].copy_(joint[..., 2, :].transpose(1, 2))
    return heads


def _lay_back(joint: Tensor, gradients: tuple[Tensor, Tensor, Tensor], rotation: Tensor | None) -> None:
    """Write the gradients of queries, keys and values, (B N, L, D) each, into that of `joint` (B, L, N, 3, D)."""
    batch, length, number, _, dim = joint.shape
    by_token = [x.view(batch, number, length, dim).transpose(1, 2) for x in gradients]  # (B, L, N, D) each
    turned = joint[..., :2, :] if rotation is None else torch.empty(batch, length, number, 2, dim)
    turned[..., 0, :].copy_(by_token[0])
    turned[..., 1, :].copy_(by_token[1])
    if rotation is not None:
        back = torch.view_as_complex(rotation).conj_physical()
        torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(back)
        joint[..., :2, :].copy_(turned)
    joint[..., 2, :].copy_(by_token[2])
