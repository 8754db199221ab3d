"""Pack proteins end to end, and cut an order of proteins into pieces of a bounded number of tokens.

T tokens of packed proteins, B proteins, L residues of one, N proteins to cut.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from proteinlm import vocabulary
from proteinlm.data.batches.randomness import Purpose, draws, key
from proteinlm.data.store.sequences import Sequences


class Packed(NamedTuple):
    """Proteins laid end to end, each opened by [CLS] and never closed by [SEP], as ProteinLM does."""

    tokens: Tensor
    """(T,) int64."""
    starts: Tensor
    """(B + 1,) int32: protein b holds the tokens starts[b] to starts[b + 1]."""
    longest: int
    """Tokens of the longest protein."""
    proteins: int


def cut(order: np.ndarray, tokens: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut the record numbers `order` (N,) greedily into consecutive pieces of at most `budget` tokens.

    `tokens` (N,) has the size of each record in that order. A record of more than `budget` tokens is a piece by itself.
    """
    pieces, begin = [], 0
    window = 2 + 2 * budget * len(tokens) // max(1, int(tokens.sum(dtype=np.int64)))  # usually holds a piece
    while begin < len(order):
        ends = np.cumsum(tokens[begin : begin + window], dtype=np.int64)
        if ends[-1] <= budget and begin + window < len(order):
            window *= 2
            continue
        taken = max(1, int(np.searchsorted(ends, budget, side="right")))
        pieces.append(order[begin : begin + taken])
        begin += taken
    return pieces


def pack(sequences: Sequences, records: np.ndarray, *, longest: int, seed: int, epoch: int) -> Packed:
    """Pack `records` (B,); a protein of more than `longest` residues gives a crop drawn from (seed, epoch, record)."""
    parts = []
    for record in records.tolist():
        residues = sequences.letters(record)
        if len(residues) > longest:
            choices = np.uint64(len(residues) - longest + 1)
            first = int(draws(key(Purpose.CROP, seed, epoch, record), np.zeros(1))[0] % choices)
            residues = residues[first : first + longest]
        parts.append(residues)
    return pack_letters(parts)


def pack_letters(proteins: list[np.ndarray]) -> Packed:
    """Pack `proteins`, each given as ASCII letters (L,) uint8 that the vocabulary knows."""
    lengths = np.array([len(protein) for protein in proteins], dtype=np.int64)
    starts = np.zeros(len(proteins) + 1, dtype=np.int64)
    np.cumsum(lengths + 1, out=starts[1:])
    tokens = np.full(starts[-1], vocabulary.CLS, dtype=np.int64)
    is_residue = np.ones(len(tokens), dtype=bool)
    is_residue[starts[:-1]] = False
    tokens[is_residue] = vocabulary.encode_bytes(np.concatenate(proteins))
    return Packed(
        torch.from_numpy(tokens), torch.from_numpy(starts.astype(np.int32)), int(lengths.max()) + 1, len(proteins)
    )
