"""Reads a protein that is longer than a model has positions for in stretches of ``--window`` residues, which overlap.

L residues of a protein, N of a stretch, K positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from proteinlm.errors import InputError


@dataclass(frozen=True)
class Stretches:
    """The stretches of long proteins.

    The first begins where the protein does, and each begins ``residues - overlap`` after the one before. The last ends
    where the protein does, and may overlap by more.
    """

    residues: int
    """N, of each."""
    overlap: int
    """The residues that two neighbours share."""

    @classmethod
    def choose(cls, window: int, overlap: int | None, positions: int) -> "Stretches | None":
        """The stretches for a model with `positions` for so many residues; None without a window.

        Half of the window overlaps if `overlap` is None. `InputError` for a window that the model has no positions for,
        and for an overlap that leaves nothing new.
        """
        if not window:
            if overlap is not None:
                raise InputError(f"--overlap {overlap} is of windows: name their residues by --window")
            return None
        if not 0 < window <= positions:
            raise InputError(f"--window {window} is not from 1 to {positions}, which the model has positions for")
        overlap = window // 2 if overlap is None else overlap
        if not 0 <= overlap < window:
            raise InputError(f"--overlap {overlap} is not from 0 to {window - 1}, less than --window {window}")
        return cls(window, overlap)

    def of(self, length: int) -> list[slice]:
        """The stretches of a protein of `length` residues, L, at least N."""
        begins = [*range(0, length - self.residues, self.residues - self.overlap), length - self.residues]
        return [slice(begin, begin + self.residues) for begin in begins]


def mean_of_stretches(rows: list[np.ndarray], stretches: list[slice]) -> np.ndarray:
    """The mean (L, ...) float32 of what each stretch (N, ...) says of its residues, over the stretches that have them."""
    length = stretches[-1].stop
    total, counts = np.zeros((length, *rows[0].shape[1:]), np.float32), np.zeros(length, np.float32)
    for part, stretch in zip(rows, stretches, strict=True):
        total[stretch] += part
        counts[stretch] += 1
    return total / counts.reshape(-1, *[1] * (total.ndim - 1))


def mean_at_positions(
    read: Callable[[slice, np.ndarray], np.ndarray], positions: np.ndarray, stretches: list[slice]
) -> np.ndarray:
    """The mean (K, V) float32 of what each stretch says of `positions` (K,), over the stretches that have them.

    `read` gives (k, V) for k of the positions, counted from the stretch's own first residue.
    """
    total, counts = None, np.zeros((len(positions), 1), np.float32)
    for stretch in stretches:
        inside = (stretch.start <= positions) & (positions < stretch.stop)
        if inside.any():
            rows = read(stretch, positions[inside] - stretch.start)
            total = np.zeros((len(positions), rows.shape[1]), np.float32) if total is None else total
            total[inside] += rows
            counts[inside] += 1
    assert total is not None, "each position is in a stretch"
    return total / counts


def mean_of_maps(read: Callable[[slice], np.ndarray], stretches: list[slice]) -> np.ndarray:
    """The mean (L, L) float32 of the maps (N, N) of the stretches; nan for pairs that no stretch has both of."""
    length = stretches[-1].stop
    total, counts = np.zeros((length, length), np.float32), np.zeros((length, length), np.float32)
    for stretch in stretches:
        total[stretch, stretch] += read(stretch)
        counts[stretch, stretch] += 1
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
