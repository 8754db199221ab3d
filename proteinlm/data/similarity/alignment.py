"""How many residues two proteins share, by the best local alignment near a diagonal; many pairs at once, numpy alone.

P pairs. A cell is at (query i, target j) on diagonal j - i and antidiagonal i + j; it follows from cells of the two
antidiagonals before, so that a whole antidiagonal of all pairs is one array. It meets every other diagonal of the band.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HALF_BAND = 16
"""Diagonals to either side, an even number: so many more residues may be inserted than deleted."""
_MARGIN = 3 * HALF_BAND  # around a protein, so that no cell need be asked whether it is inside
# Smith and Waterman's scores, with the matches and columns of the alignment in the lower bits of the same number
_SCORE, _MATCHES = 1 << 32, 1 << 16
_MATCH, _MISMATCH, _GAP = 2 * _SCORE + _MATCHES + 1, 1 - _SCORE, 1 - 2 * _SCORE


class Identities(NamedTuple):
    """Of each pair."""

    matches: np.ndarray  # (P,)
    columns: np.ndarray  # (P,) of the alignment, gaps among them


def align(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray], diagonals: np.ndarray) -> Identities:
    """The best local alignments of letters (L,) uint8, within `HALF_BAND` of the `diagonals` (P,): target minus query.

    A match scores 2, a mismatch -1, a residue without partner -2.
    """
    pairs, diagonals = len(queries), diagonals - diagonals % 2
    overlaps = overlap(queries, targets, diagonals)
    # where the band begins: the first antidiagonal that meets the diagonal inside both proteins
    i = np.maximum(-diagonals, 0) + HALF_BAND // 2  # of the lowest diagonal, in the middle of whose band both begin
    j = np.maximum(diagonals, 0) - HALF_BAND // 2
    steps = np.arange(HALF_BAND + 1)
    most = int(overlaps.max())
    query, target = _side_by_side(queries, 1, most), _side_by_side(targets, 2, most)
    from_query = i[:, None] - steps + (np.arange(pairs) * query.shape[1])[:, None] + _MARGIN  # (P, HALF_BAND + 1)
    from_target = j[:, None] + steps + (np.arange(pairs) * target.shape[1])[:, None] + _MARGIN
    query, target = query.ravel(), target.ravel()
    even = np.zeros((pairs, HALF_BAND + 1), np.int64)
    odd = np.zeros((pairs, HALF_BAND + 2), np.int64)  # a column of zeros at each side
    best = np.zeros(pairs, np.int64)
    for step in range(-HALF_BAND // 2, most + HALF_BAND):
        # diagonals 0, 2, 4, ... of the band, then those between, which are one residue of the target further
        same = query.take(from_query + step) == target.take(from_target + step)
        cells = even + np.where(same, _MATCH, _MISMATCH)
        even = np.maximum(np.maximum(cells, np.maximum(odd[:, :-1], odd[:, 1:]) + _GAP), 0)
        np.maximum(best, even.max(axis=1), out=best)
        same = query.take(from_query[:, :-1] + step) == target.take(from_target[:, :-1] + (step + 1))
        cells = odd[:, 1:-1] + np.where(same, _MATCH, _MISMATCH)
        odd[:, 1:-1] = np.maximum(np.maximum(cells, np.maximum(even[:, :-1], even[:, 1:]) + _GAP), 0)
        np.maximum(best, odd.max(axis=1), out=best)
    return Identities(best % _SCORE // _MATCHES, best % _MATCHES)


def overlap(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray], diagonals: np.ndarray) -> np.ndarray:
    """Residues that face each other on the `diagonals`, (P,)."""
    ours, theirs = (np.array([len(each) for each in side], np.int64) for side in (queries, targets))
    return np.minimum(ours + np.minimum(diagonals, 0), theirs - np.maximum(diagonals, 0))


def _side_by_side(sequences: Sequence[np.ndarray], filling: int, behind: int) -> np.ndarray:
    """Letters (P, L') uint8 with margins of what is no letter and unlike that of the other side, and more `behind`."""
    longest = max(map(len, sequences))
    letters = np.full((len(sequences), longest + 2 * _MARGIN + behind), filling, np.uint8)
    for row, sequence in zip(letters, sequences, strict=True):
        row[_MARGIN : _MARGIN + len(sequence)] = sequence
    return letters
