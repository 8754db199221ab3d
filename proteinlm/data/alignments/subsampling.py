"""Chooses rows of a deep alignment, as the MSA Transformer's authors do (Rao et al. 2021, section 4.1).

N rows, L columns, K rows chosen.
"""

import numpy as np

from proteinlm.config.checks import one_of
from proteinlm.data.alignments.reading import Alignment

METHODS = DIVERSE, RANDOM, FIRST = "diverse", "random", "first"


def subsample(alignment: Alignment, depth: int, method: str = DIVERSE, seed: int = 0) -> Alignment:
    """At most `depth` rows of an alignment in the order of the file, the query among them.

    ``diverse`` adds again and again the row that is on average farthest from those chosen, by Hamming distance, the
    earlier of two. ``random`` draws rows by `seed`. ``first`` takes the file's first rows, which many tools sort by
    how sure they are.
    """
    one_of("--rows", method, METHODS)
    if alignment.depth <= depth:
        return alignment
    if method == FIRST:
        return alignment.rows(np.arange(depth))
    if method == RANDOM:
        others = 1 + np.random.default_rng(seed).permutation(alignment.depth - 1)[: depth - 1]
        return alignment.rows(np.sort(np.append(0, others)))
    return alignment.rows(np.sort(_diverse(alignment.letters, depth)))


def _diverse(letters: np.ndarray, depth: int) -> np.ndarray:
    """The rows (K,) of ``diverse``, in the order in which they are chosen."""
    chosen = np.zeros(depth, np.int64)
    distance = np.zeros(len(letters), np.int64)  # summed over the rows chosen
    taken = np.zeros(len(letters), bool)
    for place in range(1, depth):
        taken[chosen[place - 1]] = True
        distance += (letters != letters[chosen[place - 1]]).sum(axis=1)
        chosen[place] = np.where(taken, -1, distance).argmax()
    return chosen
