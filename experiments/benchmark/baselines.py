"""What a benchmark gives without any network. N variants or entries, L residues.

FLIP's own baselines are among them: the Levenshtein distance to the wild type, the sum of BLOSUM62 over its residues, and
ridge regression on one-hot residues with penalty 1, fitted on the proteins for training and for validation.
"""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.controls import LETTERS, WINDOW, places
from proteinlm.vocabulary import AMINO_ACIDS

Predict = Callable[[np.ndarray], np.ndarray]
"""From features (N, F) to numbers (N,)."""

_ORDER = "ARNDCQEGHILKMFPSTWYV"
_ROWS = """
4
-1 5
-2 0 6
-2 -2 1 6
0 -3 -3 -3 9
-1 1 0 0 -3 5
-1 0 0 2 -4 2 5
0 -2 0 -1 -3 -2 -2 6
-2 0 1 -1 -3 0 0 -2 8
-1 -3 -3 -3 -1 -3 -3 -4 -3 4
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4
"""
BLOSUM62: dict[frozenset[str], int] = {
    frozenset((_ORDER[row], _ORDER[column])): int(cell)
    for row, line in enumerate(_ROWS.strip().splitlines())
    for column, cell in enumerate(line.split())
}
"""Henikoff and Henikoff 1992, in half bits."""
UNKNOWN_PAIR = -1
"""For a letter that is no amino acid."""


def levenshtein(sequences: Sequence[str], wildtype: str) -> np.ndarray:
    """Minus the fewest insertions, deletions and substitutions that lead to the wild type, (N,)."""
    return np.array([-_distance(sequence, wildtype) for sequence in sequences], dtype=np.float64)


def _distance(first: str, second: str) -> int:
    """The edit distance; what both begin and end with is taken off first."""
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
    return row[-1]


def blosum62(sequences: Sequence[str], wildtype: str) -> np.ndarray:
    """The sum of BLOSUM62 over the residues of variants as long as the wild type, (N,)."""
    aligned = {pair for sequence in sequences for pair in zip(sequence, wildtype, strict=True)}
    known = {pair: BLOSUM62.get(frozenset(pair), UNKNOWN_PAIR) for pair in aligned}
    return np.array(
        [sum(known[pair] for pair in zip(each, wildtype, strict=True)) for each in sequences], dtype=np.float64
    )


def one_hot(sequences: Sequence[str]) -> np.ndarray:
    """One-hot residues of sequences of one length, (N, L * letters) float32, without columns that never vary."""
    letters = np.stack([places(np.frombuffer(sequence.encode(), np.uint8)) for sequence in sequences])
    varied = (letters != letters[0]).any(axis=0)
    return np.eye(LETTERS, dtype=np.float32)[letters[:, varied]].reshape(len(letters), -1)


def flips_ridge(features: np.ndarray, target: np.ndarray, penalty: float = 1.0) -> Predict:
    """Ridge regression of features as they are, with an intercept that has no penalty."""
    mean, centre = features.mean(axis=0, dtype=np.float64), target.mean(dtype=np.float64)
    part = features - mean
    weights = np.linalg.solve(part.T @ part + penalty * np.eye(part.shape[1]), part.T @ (target - centre))
    return lambda asked: (asked - mean) @ weights + centre


def site_independent(train: np.ndarray) -> Predict:
    """The sum over positions of the logarithm of how often training variants have the residue, from one-hot features."""
    counts = train.sum(axis=0, dtype=np.float64) + 1  # one of each is added
    logs = np.log(counts.reshape(-1, LETTERS) / counts.reshape(-1, LETTERS).sum(axis=1, keepdims=True)).ravel()
    return lambda asked: asked @ logs


def composition(sequence: str) -> np.ndarray:
    """The counts of the amino acids among the 17 residues around each residue, (L, 20) float32."""
    letters = places(np.frombuffer(sequence.encode(), np.uint8))
    padded = np.pad(np.eye(LETTERS, dtype=np.float32)[letters], ((WINDOW // 2, WINDOW // 2), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).sum(axis=-1)  # (L, LETTERS)
    return around[:, : len(AMINO_ACIDS)]
