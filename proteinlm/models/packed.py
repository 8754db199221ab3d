"""Arithmetic over packed proteins. Pure PyTorch.

T tokens of all proteins laid end to end, B proteins, W numbers for each token. `starts` (B + 1,) bounds the proteins:
protein b has the tokens ``starts[b] : starts[b + 1]``, [CLS] first. An empty protein, which ends a stream whose `starts`
have a fixed length, has no tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def positions(starts: Tensor, tokens: int) -> Tensor:
    """Position of each of `tokens` tokens in its protein, (T,) int32; computed without waiting for the device."""
    index = torch.arange(tokens, device=starts.device, dtype=torch.int32)
    return index - starts[torch.searchsorted(starts[1:], index, right=True)]


def cls_positions(starts: Tensor) -> Tensor:
    """Indices of the [CLS] tokens, (B,) int64, without those of empty proteins."""
    return starts[:-1][starts.diff() > 0].long()


def last_positions(starts: Tensor) -> Tensor:
    """Indices of the proteins' last tokens, (B,) int64, without those of empty proteins."""
    return starts[1:][starts.diff() > 0].long() - 1


def cls_states(x: Tensor, starts: Tensor) -> Tensor:
    """The rows of x (T, W) at [CLS], (B, W); no protein may be empty. Does not wait for the device."""
    return x[starts[:-1].long()]


def per_protein(x: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
    """The rows of x (T, ...) of each protein, empty ones included; waits for the device."""
    return x.split(starts.diff().tolist())


def mean_over_residues(x: Tensor, starts: Tensor) -> Tensor:
    """Mean of x (T, W) over the residues of each protein, without [CLS], (B, W).

    A protein that is [CLS] alone has the row of its [CLS]; an empty one has no row. Computed protein by protein: a GPU does
    not promise the order of summation of a scatter-add.
    """
    proteins = [protein for protein in per_protein(x, starts) if len(protein)]
    return torch.stack([protein[1:].mean(dim=0) if len(protein) > 1 else protein[0] for protein in proteins])


def mean_over_tokens(x: Tensor, starts: Tensor) -> Tensor:
    """Mean of x (T, W) over the tokens of each protein, [CLS] included, (B, W); an empty protein has no row."""
    return torch.stack([protein.mean(dim=0) for protein in per_protein(x, starts) if len(protein)])


def with_means_at_cls(x: Tensor, starts: Tensor) -> Tensor:
    """X (T, W) with the mean over a protein's residues in the row of its [CLS]."""
    return x.index_copy(0, cls_positions(starts), mean_over_residues(x, starts))


def sum_over_proteins(x: Tensor, starts: Tensor) -> Tensor:
    """Sum of x (T, W) over the tokens of each protein, (B, W)."""
    protein = torch.repeat_interleave(starts.diff().long(), output_size=len(x))  # (T,)
    return x.new_zeros(len(starts) - 1, x.shape[1]).index_add(0, protein, x)


def with_gaps(x: Tensor, starts: Tensor, gap: int) -> tuple[Tensor, Tensor]:
    """Put `gap` rows of zeros between the proteins of x (T, W), so that a convolution does not reach from one to the next.

    Returns the rows (T + gap (B - 1), W), and the index (T,) int64 among them of each token.
    """
    token = torch.arange(len(x), device=x.device)
    index = token + gap * torch.searchsorted(starts[1:].long(), token, right=True)  # (T,)
    rows = x.new_zeros(len(x) + gap * (len(starts) - 2), x.shape[1])
    return rows.index_copy(0, index, x), index


class RecurrentOrder(NamedTuple):
    """Tokens in the order in which a recurrent network reads them: all first ones, then all second ones, no padding.

    Within a step the longest proteins come first; as proteins end, fewer are left.
    """

    order: Tensor
    """(T,) int64: index among the packed tokens of each token in this order."""
    inverse: Tensor
    """(T,) int64: index in this order of each packed token."""
    sizes: Tensor
    """(steps,) int64, on the CPU, where the kernels want it: the number of proteins in each step."""


def recurrent_order(starts: Tensor, *, reverse: bool = False) -> RecurrentOrder:
    """The order for proteins read from their first token, or with `reverse` from their last."""
    bounds = starts.cpu().long()
    lengths = bounds.diff()
    token = torch.arange(int(bounds[-1]))
    protein = torch.repeat_interleave(torch.arange(len(lengths)), lengths)  # (T,)
    step = bounds[1:][protein] - 1 - token if reverse else token - bounds[protein]  # (T,)
    rank = lengths.argsort(descending=True, stable=True).argsort()  # (B,)
    sizes = torch.bincount(step)
    inverse = (sizes.cumsum(0) - sizes)[step] + rank[protein]  # (T,)
    return RecurrentOrder(inverse.argsort().to(starts.device), inverse.to(starts.device), sizes)
