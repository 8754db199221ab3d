"""Self-attention over packed proteins: one function per kernel.

T tokens of all proteins laid end to end, B proteins, N heads, D head dimension. K queries.
"""

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.config import max_scored_tokens
from proteinlm.models import attention_compiled, attention_cpu


class Boundaries(NamedTuple):
    """The beginnings and ends of the proteins of a batch, in the form that each kernel wants."""

    starts: Tensor
    """(B + 1,) int32: protein b holds the tokens starts[b] to starts[b + 1]."""
    longest: int
    """Tokens of the longest protein, or any number above."""
    runs: "Runs | None"
    """For the kernel that takes one length at a time; None if the fused kernel runs."""
    rotation: Tensor | None = None
    """The cosines and sines for `rotate`, with rotary positions; None without."""


class Runs:
    """Neighbours of equal length, as (proteins, tokens of each).

    Opaque to torch.compile, which would otherwise make a graph for each list.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.each: list[tuple[int, int]] = [(len(list(run)), length) for length, run in groupby(lengths) if length]


def boundaries(starts: Tensor, longest: int, dtype: torch.dtype) -> Boundaries:
    """Prepare `attend` for hidden states of `dtype` on the device of `starts`; done once for all layers."""
    if _fused(starts.device, dtype):
        return Boundaries(starts, longest, None)
    return Boundaries(starts, longest, Runs(starts.diff().tolist()))


def attend(joint: Tensor, where: Boundaries, wanted: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (T, N, D) within each protein, or if tokens are `wanted` (K,), theirs (K, N, D).

    `joint` (T, N, 3, D) holds queries, keys and values, of which the first two are yet to be turned by `where.rotation`.
    """
    if where.runs is not None:
        return _attend_by_runs(joint, where.rotation, where.runs, wanted)
    x = _attend_fused(*rotate_heads(joint, where.rotation), where)
    return x if wanted is None else x.index_select(0, wanted)


def attend_few(query: Tensor, others: Tensor, where: Boundaries, wanted: Tensor) -> Tensor:
    """The same (K, N, D) of the tokens `wanted` (K,), if `takes_few`, by their queries (K, N, D) and the keys and values of
    all tokens, `others` (T, N, 2, D).
    """
    assert where.runs is not None
    return attention_compiled.attend_few(query, others, where.rotation, where.runs.each, wanted)


def takes_few(x: Tensor, where: Boundaries, wanted: Tensor) -> bool:
    """Whether `attend_few` takes the tokens `wanted` (K,), with heads as x (..., D) has them."""
    return where.runs is not None and _are_compiled(x, where.runs) and _is_rising(wanted)


def rotate_heads(joint: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (T, N, D) each, of `joint` (T, N, 3, D), the first two turned."""
    if rotation is None:
        query, key, value = joint.unbind(-2)
        return query, key, value
    both, value = joint.split((2, 1), dim=-2)
    query, key = rotate(both, rotation).unbind(-2)
    return query, key, value.squeeze(-2)


def rotation(positions: Tensor, dim: int) -> Tensor:
    """Cosine and sine of the angle by which each pair of a head's numbers is turned, (T, 1, 1, D / 2, 2) float32.

    Pair i at position p turns by p / 10000^(2i/D) (RoFormer, arXiv 2104.09864, section 3.2.2).
    """
    frequencies = 10000 ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = positions.unsqueeze(-1) * frequencies  # (T, D / 2)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)[:, None, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of neighbouring numbers of x (T, N, 2, D), the queries and keys, by its angle."""
    pairs = x.unflatten(-1, (-1, 2))  # (T, N, 2, D / 2, 2)
    if x.dtype == torch.float32 and not torch.compiler.is_compiling():  # one pass where the real products take six
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2)
    (a, b), (cosine, sine) = pairs.float().unbind(-1), rotation.unbind(-1)
    return torch.stack((a * cosine - b * sine, a * sine + b * cosine), dim=-1).flatten(-2).to(x.dtype)


def kernel(device: torch.device, dtype: torch.dtype) -> str:
    """Name of the kernel that `attend` takes."""
    return "varlen_attn" if _fused(device, dtype) else "scaled_dot_product_attention"


def _fused(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def _by_runs(joint: Tensor, rotation: Tensor | None, runs: Runs, wanted: Tensor | None) -> Tensor:
    """Each protein in the way that is the fastest for its length; of one way, as many neighbours as possible at once.

    The functions in C compute what is `wanted` alone, if all proteins are theirs.

    Cut by `split`, whose gradient is one concatenation; slices would each add into a zero tensor as large as the batch.
    """
    if wanted is not None:
        if not _are_compiled(joint, runs):
            return _by_runs(joint, rotation, runs, None).index_select(0, wanted)
        tokens, back = (wanted, None) if _is_rising(wanted) else wanted.unique(return_inverse=True)
        query = joint[:, :, 0].index_select(0, tokens)
        output = attention_compiled.attend_few(query, joint[:, :, 1:], rotation, runs.each, tokens)
        return output if back is None else output.index_select(0, back)
    compiled = attention_compiled.longest(joint)
    scored = max_scored_tokens(bf16=joint.dtype == torch.bfloat16)

    def way(run: tuple[int, int]) -> Callable[[Tensor, Tensor | None, list[tuple[int, int]]], Tensor]:
        if run[1] <= compiled:
            return attention_compiled.attend
        return attention_cpu.attend if run[1] <= scored else _by_kernel

    spans = [(attend_span, list(span)) for attend_span, span in groupby(runs.each, way)]
    sizes = [sum(count * length for count, length in span) for _, span in spans]
    parts = [joint] if len(spans) == 1 else joint.split(sizes)
    rotations = [None] * len(spans) if rotation is None else rotation.split(sizes)
    outputs = [
        attend_span(part, turns, span) for part, turns, (attend_span, span) in zip(parts, rotations, spans, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _are_compiled(x: Tensor, runs: Runs) -> bool:
    """Whether functions in C compute attention of all proteins, with heads as x (..., D) has them."""
    compiled = attention_compiled.longest(x)
    return all(length <= compiled for _, length in runs.each)


def _is_rising(wanted: Tensor) -> bool:
    """Whether no token of `wanted` (K,) is before one that precedes it."""
    return not bool((wanted.diff() < 0).any())


def _by_kernel(joint: Tensor, rotation: Tensor | None, runs: list[tuple[int, int]]) -> Tensor:
    sizes = [count * length for count, length in runs]
    heads = (x.split(sizes) for x in rotate_heads(joint, rotation))
    outputs = []
    for *parts, (count, length) in zip(*heads, runs, strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in parts)  # (count, N, length, D)
        outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))  # (count length, N, D)
    return torch.cat(outputs)  # (T, N, D)


_attend_by_runs = cast("Callable[..., Tensor]", torch.compiler.disable(_by_runs))


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, where: Boundaries) -> Tensor:
    """Flash attention over variable lengths.

    The kernel takes head dimensions that are multiples of 8 up to 256 and scales by the padded dimension's root:
    the zeros change no product, and the query carries the quotient of the two roots.
    """
    from torch.nn.attention.varlen import varlen_attn

    dim = query.shape[-1]
    padding = -dim % 8
    if padding:
        query = query * ((dim + padding) / dim) ** 0.5
        query, key, value = (F.pad(x, (0, padding)) for x in (query, key, value))
    output = varlen_attn(query, key, value, where.starts, where.starts, where.longest, where.longest)  # (T, N, D)
    assert isinstance(output, Tensor)  # a tuple only if more is asked for
    return output[..., :dim]
