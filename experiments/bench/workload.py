"""The proteins that all arms of a comparison work on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from proteinlm import vocabulary
from proteinlm.config import FilesDataConfig, ModelConfig
from proteinlm.data import sources
from proteinlm.data.batches.masking import Masked, mask
from proteinlm.data.batches.packing import cut, pack_letters
from proteinlm.errors import InputError

LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
IGNORED = -100
"""Label of a token that is no target, to transformers."""


def samples(rounds: int, budget: int, longest: int, root: Path | None) -> list[list[np.ndarray]]:
    """The proteins of `rounds` micro-batches of at most `budget` tokens, cut as in training from what `proteins` gives."""
    if longest >= budget:
        raise InputError(f"--tokens {budget}: must exceed --longest {longest}, which leaves no room for [CLS]")
    drawn = proteins(rounds * budget // 16, longest, root)
    pieces = cut(np.arange(len(drawn)), np.array([len(letters) + 1 for letters in drawn]), budget)
    return [[drawn[place] for place in piece.tolist()] for piece in pieces[:rounds]]


def proteins(count: int, longest: int, root: Path | None) -> list[np.ndarray]:
    """`count` proteins, (L,) uint8 letters each, of at most `longest` residues, in random order.

    From the corpus under `root`; without one, random letters with lengths like Pfam's.
    """
    draw = np.random.default_rng(0)
    if root is None:
        return [LETTERS[draw.integers(0, 20, length)] for length in lengths_like_pfam(draw, count, longest)]
    sequences = sources.corpus(FilesDataConfig(name="files", root=str(root))).splits["train"]
    records = draw.choice(np.flatnonzero(sequences.lengths() <= longest), count, replace=False)
    return [sequences.letters(int(record)) for record in records]


def lengths_like_pfam(draw: np.random.Generator, count: int, longest: int) -> np.ndarray:
    """Residues of `count` proteins, (count,) int64: log-normal with median 141."""
    return np.clip(draw.lognormal(4.95, 0.62, count), 11, longest).astype(np.int64)


def training_flops(config: ModelConfig, batches: list[Masked]) -> float:
    """Of one step over all batches."""
    lengths = np.concatenate([batch.packed.starts.diff().numpy() for batch in batches]).astype(np.int64)
    targets = sum(len(batch.targets) for batch in batches)
    return config.training_flops(int(lengths.sum()), int((lengths**2).sum()), targets)


class Padded(NamedTuple):
    """A batch as transformers wants it."""

    tokens: Tensor
    """(B, L) int64."""
    real: Tensor
    """(B, L) int64: 1 where there is a protein."""
    labels: Tensor
    """(B, L) int64."""


def packed_steps(sample: list[np.ndarray], budget: int) -> list[Masked]:
    """The sample as a training step has it: micro-batches in the given order, sorted by length inside each."""
    lengths = np.array([len(letters) + 1 for letters in sample])
    batches = []
    for piece in cut(np.arange(len(sample)), lengths, budget):
        ordered = piece[np.argsort(lengths[piece], kind="stable")]
        packed = pack_letters([sample[place] for place in ordered.tolist()])
        batches.append(mask(packed, ordered, percent=15, seed=0, epoch=0))
    return batches


def padded_batches(sample: list[np.ndarray], size: int, by_length: bool) -> list[Padded]:
    """The same masked proteins, `size` at a time, padded to the longest of each batch."""
    order = np.arange(len(sample))
    if by_length:
        order = np.argsort([len(letters) for letters in sample], kind="stable")
    batches = []
    for begin in range(0, len(order), size):
        rows = []
        for place in order[begin : begin + size].tolist():
            masked = mask(pack_letters([sample[place]]), np.array([place]), percent=15, seed=0, epoch=0)
            labels = torch.full_like(masked.packed.tokens, IGNORED)
            labels[masked.positions] = masked.targets
            rows.append((masked.packed.tokens, labels))
        longest = max(len(tokens) for tokens, _ in rows)
        tokens = torch.full((len(rows), longest), vocabulary.PAD)
        labels = torch.full((len(rows), longest), IGNORED)
        for row, (token, label) in enumerate(rows):
            tokens[row, : len(token)], labels[row, : len(label)] = token, label
        batches.append(Padded(tokens, (tokens != vocabulary.PAD).long(), labels))
    return batches
