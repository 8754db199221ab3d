"""Hide residues from a language model (paper section 3.1; BERT's 80/10/10)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from proteinlm import vocabulary
from proteinlm.data.batches.packing import Packed
from proteinlm.data.batches.randomness import Purpose, draws, key

# The masking sort packs (protein, random bits, position) into one 64-bit word.
_POSITION_BITS, _RANDOM_BITS = 16, 30
HIDDEN, REPLACED = 0.8, 0.1
"""Shares of the residues to recover that are shown as [MASK], and as a random amino acid; the rest are shown as they are."""


class Masked(NamedTuple):
    """A packed batch with residues hidden."""

    packed: Packed
    positions: Tensor
    """(K,) int64, rising: the tokens to recover."""
    targets: Tensor
    """(K,) int64: what stood there."""


def mask(packed: Packed, records: np.ndarray, *, percent: int, seed: int, epoch: int) -> Masked:
    """Hide exactly ``ceil(percent / 100 * residues)`` residues of each protein, never [CLS].

    Each hidden residue independently becomes [MASK] (80 %), one of the 20 amino acids at random (10 %), or stays (10 %).
    A pure function of (seed, epoch, record number): the same whatever a protein is packed with. (ProteinLM drew the
    replacements from all 31 tokens, [CLS] among them, and masked a share of the window instead of each protein.)
    """
    starts = packed.starts.numpy().astype(np.int64)
    lengths = np.diff(starts) - 1
    protein = np.repeat(np.arange(len(lengths)), lengths)  # (R,) of each residue
    firsts = starts[:-1] - np.arange(len(lengths))  # of each protein's residues in such arrays
    position = np.arange(len(protein)) - firsts[protein]
    streams = key(Purpose.MASK, seed, epoch, records)

    random = draws(streams[protein], position) >> np.uint64(64 - _RANDOM_BITS)
    words = (protein.astype(np.uint64) << np.uint64(_RANDOM_BITS + _POSITION_BITS)) | (
        (random << np.uint64(_POSITION_BITS)) | position.astype(np.uint64)
    )
    words.sort()  # within each protein, its residues in random order
    counts = target_counts(lengths, percent)
    chosen = np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    word = np.sort(
        (words[chosen] >> np.uint64(_RANDOM_BITS + _POSITION_BITS) << np.uint64(_POSITION_BITS))
        | (words[chosen] & np.uint64((1 << _POSITION_BITS) - 1))
    )
    protein = (word >> np.uint64(_POSITION_BITS)).astype(np.int64)
    position = (word & np.uint64((1 << _POSITION_BITS) - 1)).astype(np.int64)

    positions = torch.from_numpy(starts[protein] + 1 + position)
    targets = packed.tokens[positions]
    tokens = packed.tokens.clone()
    tokens[positions] = torch.from_numpy(_replacements(targets.numpy(), streams[protein], position))
    return Masked(packed._replace(tokens=tokens), positions, targets)


def target_counts(lengths: np.ndarray, mask_percent: int) -> np.ndarray:
    """Residues to mask in proteins of `lengths` (N,): ``ceil(mask_percent / 100 * length)``, in integers."""
    return (mask_percent * lengths.astype(np.int64) + 99) // 100


def everything(packed: Packed) -> Masked:
    """Make all residues targets, and hide none."""
    inside = torch.ones(len(packed.tokens), dtype=torch.bool)
    inside[packed.starts[:-1].long()] = False
    positions = inside.nonzero().squeeze(1)
    return Masked(packed, positions, packed.tokens[positions])


def shown_as() -> np.ndarray:
    """Probability that a residue to be recovered (row) is shown as a token (column), (31, 31)."""
    residue, token = np.ogrid[: len(vocabulary.TOKENS), : len(vocabulary.TOKENS)]
    replacing = np.isin(token, vocabulary.AMINO_ACID_IDS) / len(vocabulary.AMINO_ACIDS)
    return HIDDEN * (token == vocabulary.MASK) + REPLACED * replacing + (1 - HIDDEN - REPLACED) * (token == residue)


def _replacements(targets: np.ndarray, streams: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The tokens that stand in for the residues `targets` (K,), decided by one draw each."""
    bits = draws(key(Purpose.REPLACEMENT, streams), position)
    choice = bits >> np.uint64(32)  # 32 bits decide the kind, the other 32 the amino acid
    amino_acid = ((bits & np.uint64(0xFFFFFFFF)) * np.uint64(len(vocabulary.AMINO_ACIDS))) >> np.uint64(32)
    random = vocabulary.AMINO_ACID_IDS[amino_acid.astype(np.int64)].astype(np.int64)
    kept = np.where(choice < np.uint64(round((HIDDEN + REPLACED) * 2**32)), random, targets)
    return np.where(choice < np.uint64(round(HIDDEN * 2**32)), vocabulary.MASK, kept)
