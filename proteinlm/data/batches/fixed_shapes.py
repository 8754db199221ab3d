"""Fill masked micro-batches up to shapes that come again, so that a GPU can replay what it did for one of them.

A filled micro-batch has a fixed number of tokens, and one of few numbers of proteins and of masked residues.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from proteinlm import vocabulary
from proteinlm.data.batches.masking import Masked

FEWEST = 16
"""Proteins of the smallest filled micro-batch."""
NO_TARGET = -100
"""The target of a masked residue that is filler: cross-entropy passes over it (PyTorch's ``ignore_index``)."""


class FixedShapes(NamedTuple):
    """The shapes that micro-batches are filled up to."""

    tokens: int
    """Of every filled micro-batch; no micro-batch has more."""
    longest: int
    """Tokens of the longest protein that there can be, and of the longest one of filler."""
    mask_percent: int

    def fill(self, masked: Masked) -> Masked:
        """`masked` with tokens, proteins and masked residues of no effect behind its own.

        The tokens are proteins of up to `longest` [CLS], and the proteins without tokens are empty. The masked residues are
        token 0 without a target.
        """
        tokens, starts, _, proteins = masked.packed
        ends = range(len(tokens), self.tokens, self.longest)[1:]  # of all but the last protein of filler
        count = _power_of_two(proteins + len(ends) + (len(tokens) < self.tokens))
        bounds = torch.full((count + 1,), self.tokens, dtype=starts.dtype)
        bounds[: proteins + 1] = starts
        bounds[proteins + 1 : proteins + 1 + len(ends)] = torch.tensor(ends, dtype=starts.dtype)
        more = self.masked_at_most(count) - len(masked.positions)
        return Masked(
            masked.packed._replace(
                tokens=F.pad(tokens, (0, self.tokens - len(tokens)), value=vocabulary.CLS),
                starts=bounds,
                longest=self.longest,
            ),
            F.pad(masked.positions, (0, more)),
            F.pad(masked.targets, (0, more), value=NO_TARGET),
        )

    def masked_at_most(self, proteins: int) -> int:
        """Masked residues that so many proteins have at most: `target_counts` rounds up once for each of them."""
        return (self.mask_percent * self.tokens + (99 - self.mask_percent) * proteins) // 100


def _power_of_two(proteins: int) -> int:
    return max(FEWEST, 2 ** (proteins - 1).bit_length())
