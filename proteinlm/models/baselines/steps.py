"""Packed proteins in the order in which a recurrent network reads them: all first tokens, then all second ones.

No padding: as proteins end, fewer are left. T tokens, B proteins.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """Tokens by step, and in each step those of the longest proteins first."""

    order: Tensor
    """(T,) int64: which token of the packed proteins comes next."""
    place: Tensor
    """(T,) int64: where each token of the packed proteins went."""
    sizes: Tensor
    """(steps,) int64, on the CPU, where kernels want it: proteins that have so many tokens."""


def steps(starts: Tensor, *, reverse: bool = False) -> Steps:
    """The order for proteins bounded by `starts` (B + 1,), read forward or in `reverse`."""
    bounds = starts.cpu().long()
    lengths = bounds.diff()
    token = torch.arange(int(bounds[-1]))
    protein = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    step = bounds[1:][protein] - 1 - token if reverse else token - bounds[protein]
    rank = lengths.argsort(descending=True, stable=True).argsort()
    sizes = torch.bincount(step)
    place = (sizes.cumsum(0) - sizes)[step] + rank[protein]
    return Steps(place.argsort().to(starts.device), place.to(starts.device), sizes)
