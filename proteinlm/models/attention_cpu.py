"""Self-attention over short proteins as batched matrix products, for CPUs.

PyTorch's kernel for CPUs takes longer than the products that it is made of, up to `config.max_scored_tokens` tokens. What
surrounds them, turning by positions and laying out by heads, is done here in blocks that stay in a core's cache, in the
backward pass too, which writes one gradient. Proteins of nearly equal length share their products, filled up with zeros.

T tokens of all proteins laid end to end, t of one block, B its proteins, L tokens of each, filled up. N heads, D head
dimension.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.shape_buckets import bucket_size

BLOCK = 2048
"""Tokens, or one protein if it has more, whose scores and heads are held at once."""
BUCKETS = 8
"""Lengths that proteins are padded to, from one power of two to the next: an eighth more at most, or 15 tokens."""


class Run(NamedTuple):
    """Neighbours of equal length."""

    proteins: slice
    """Which they are of their block."""
    tokens: slice
    length: int

    def tokens_of(self, x: Tensor) -> Tensor:
        """Their part of x (..., t, N, D): (..., proteins, N, length, D)."""
        return x[..., self.tokens, :, :].unflatten(-3, (-1, self.length)).transpose(-2, -3)

    def heads_of(self, x: Tensor) -> Tensor:
        """Their part of x (..., B, N, L, D): (..., proteins, N, length, D)."""
        return x[..., self.proteins, :, : self.length, :]


class Block:
    """Proteins laid end to end that are filled up to the same length."""

    def __init__(self, start: int, length: int) -> None:
        self.start, self.length = start, length
        self.runs: list[Run] = []
        self.proteins = self.tokens = 0

    def add(self, count: int, length: int) -> None:
        """Take `count` more proteins of `length` tokens each."""
        first, begin = self.proteins, self.tokens
        self.proteins, self.tokens = first + count, begin + count * length
        self.runs.append(Run(slice(first, self.proteins), slice(begin, self.tokens), length))

    def of(self, x: Tensor) -> Tensor:
        """Its part of x (T, ...): (t, ...)."""
        return x[self.start : self.start + self.tokens]

    def heads(self, like: Tensor, *outer: int) -> Tensor:
        """Room for (*outer, B, N, L, D), of N and D as `like` (..., N, D) has them: zero where it will be filled up."""
        make = like.new_zeros if any(run.length < self.length for run in self.runs) else like.new_empty
        number, dim = like.shape[-2:]
        return make(*outer, self.proteins, number, self.length, dim)

    def to_heads(self, x: Tensor, heads: Tensor) -> Tensor:
        """`heads` (..., B, N, L, D) with x (..., t, N, D) written into it."""
        for run in self.runs:
            run.heads_of(heads).copy_(run.tokens_of(x))
        return heads

    def from_heads(self, heads: Tensor, x: Tensor) -> None:
        """Write `heads` (..., B, N, L, D) into x (..., t, N, D)."""
        for run in self.runs:
            run.tokens_of(x).copy_(run.heads_of(heads))

    def hide(self, scores: Tensor) -> Tensor:
        """`scores` (B, N, L, L) with those of the keys that are filled up with set to minus infinity."""
        for run in self.runs:
            if run.length < self.length:
                scores[run.proteins, ..., run.length :] = float("-inf")
        return scores


def blocks(runs: list[tuple[int, int]]) -> Iterator[Block]:
    """Cut `runs`, each (proteins, tokens of each), laid end to end."""
    block = Block(0, 0)
    for count, length in runs:
        filled = bucket_size(length, BUCKETS)
        while count:
            room = max(1, BLOCK // filled) - block.proteins
            if filled != block.length or room <= 0:
                if block.runs:
                    yield block
                block = Block(block.start + block.tokens, filled)
                continue
            block.add(min(count, room), length)
            count -= min(count, room)
    if block.runs:
        yield block


def attend(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
    """Attention (T, N, D) of `joint` (T, N, 3, D), queries, keys and values, within each protein of `runs`.

    With `rotation` (T, 1, 1, D / 2, 2) float32, queries and keys are turned first.
    """
    with torch.autocast(joint.device.type, enabled=False):  # which would take the softmax to float32 and back
        output = _Attention.apply(joint, rotation, runs)
    assert isinstance(output, Tensor)
    return output


class _Attention(torch.autograd.Function):
    """Keeps the heads as the products take them, and the (L, L) weights of each.

    What a block is filled up with has no part in anything: no query sees its keys, and nothing flows back to its queries.
    """

    @staticmethod
    def forward(ctx: Any, joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
        tokens, number, _, dim = joint.shape
        output = joint.new_empty(tokens, number, dim)
        saved: list[Tensor] = []
        for block in blocks(runs):
            heads = _heads(block, joint, rotation)
            query, key, value = heads.flatten(1, 2)
            scores = _product(query, key.mT, dim).unflatten(0, heads.shape[1:3])
            weights = block.hide(scores).softmax(-1).flatten(0, 1)  # (B N, L, L)
            block.from_heads(torch.bmm(weights, value).view_as(heads[0]), block.of(output))
            if ctx.needs_input_grad[0]:
                saved += (heads, weights)
        ctx.save_for_backward(*saved, *(() if rotation is None else (rotation,)))
        ctx.runs = runs
        return output

    @staticmethod
    @once_differentiable  # whose types forget the signature; without it a second derivative would be wrong in silence
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        tokens, number, dim = upstream.shape
        joint = upstream.new_empty(tokens, number, 3, dim)
        saved = ctx.saved_tensors
        pairs, rotation = iter(saved), saved[-1] if len(saved) % 2 else None
        for block in blocks(ctx.runs):
            heads, weights = next(pairs), next(pairs)
            query, key, value = heads.flatten(1, 2)
            of_output = block.to_heads(block.of(upstream), block.heads(upstream)).flatten(0, 1)  # (B N, L, D)
            scores = torch._softmax_backward_data(torch.bmm(of_output, value.mT), weights, -1, weights.dtype)
            gradients = (_product(scores, key, dim), _product(scores.mT, query, dim), torch.bmm(weights.mT, of_output))
            _gradient_from_heads(block, [x.view_as(heads[0]) for x in gradients], joint, rotation)
        return joint, None, None


def _product(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """The batched product of a and b, divided by the root of `dim` on the way."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=dim**-0.5)


def _heads(block: Block, joint: Tensor, rotation: Tensor | None) -> Tensor:
    """Queries and keys, turned, and values of `joint` (T, N, 3, D): (3, B, N, L, D)."""
    parts = block.of(joint).permute(2, 0, 1, 3)  # (3, t, N, D)
    heads = block.heads(parts, 3)
    if rotation is None:
        return block.to_heads(parts, heads)
    turned = torch.empty(parts[:2].shape).copy_(parts[:2])
    _pairs(turned).mul_(_angles(block, rotation))
    block.to_heads(turned, heads[:2])
    block.to_heads(parts[2], heads[2])
    return heads


def _gradient_from_heads(block: Block, gradients: list[Tensor], joint: Tensor, rotation: Tensor | None) -> None:
    """Write the gradients of queries, keys and values, (B, N, L, D) each, into that of `joint` (T, N, 3, D)."""
    parts = block.of(joint).permute(2, 0, 1, 3)  # (3, t, N, D)
    turned = parts[:2] if rotation is None else torch.empty(parts[:2].shape)
    for heads, x in zip(gradients, (*turned, parts[2]), strict=True):
        block.from_heads(heads, x)
    if rotation is not None:
        _pairs(turned).mul_(_angles(block, rotation).conj_physical())
        parts[:2].copy_(turned)


def _pairs(x: Tensor) -> Tensor:
    """Neighbouring numbers of x (..., D) float32 as complex ones: (..., D / 2)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _angles(block: Block, rotation: Tensor) -> Tensor:
    """The rotations of the tokens of `block`, (t, 1, D / 2) complex."""
    return torch.view_as_complex(block.of(rotation)).squeeze(1)
