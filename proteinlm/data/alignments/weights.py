"""How much each row of an alignment counts, and how many rows it is worth.

N rows, L columns.
"""

import numpy as np

from proteinlm.data.progress import Bar

IDENTITY = 0.8
"""The usual threshold of the field: rows at least so alike share one vote."""
BLOCK = 1024  # rows that are compared with as many at once


def sequence_weights(letters: np.ndarray, identity: float = IDENTITY) -> np.ndarray:
    """One over the number of rows, itself included, that are at least `identity` alike: (N,) float64.

    The identity of two rows of `letters` (N, L) uint8 is the share of all columns in which they agree, gaps included, so
    that fragments do not count in full. Their sum is the effective depth.
    """
    rows, columns = letters.shape
    least = np.ceil(identity * columns - 1e-9)
    alike = np.zeros(rows, np.int64)
    begins = range(0, rows, BLOCK)
    kinds = np.unique(letters)
    with Bar("weighing rows", len(begins) ** 2, of_bytes=False) as bar:
        for first in begins:
            here = _indicators(letters[first : first + BLOCK], kinds)
            for second in begins:
                if second > first:
                    break
                there = here if second == first else _indicators(letters[second : second + BLOCK], kinds)
                close = here @ there.T >= least  # counts below 2^24 are exact in float32
                alike[first : first + BLOCK] += close.sum(axis=1)
                if second != first:
                    alike[second : second + BLOCK] += close.sum(axis=0)
                bar.advance(1 + (second != first))
    return 1 / alike


def effective_depth(letters: np.ndarray, identity: float = IDENTITY) -> float:
    """The sum of `sequence_weights`: how many different rows there are, near enough."""
    return float(sequence_weights(letters, identity).sum())


def _indicators(letters: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Which kind of letter is where: (N, L * kinds) float32 of zeros and ones."""
    return (letters[:, :, None] == kinds).reshape(len(letters), -1).astype(np.float32)
