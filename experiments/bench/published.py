"""Mean embeddings at the shapes of ESM-2, by ours and by transformers' EsmModel, of the same real proteins. Weights are
random, and both read them from one directory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.bench import peers
from experiments.bench.embed import our_embedding
from experiments.bench.figures import Figure, rate, ratio, time_in_turns
from experiments.bench.train import BATCH
from proteinlm import load
from proteinlm.interop.fair_esm import ALPHABET

SHAPES = {"8M": (320, 6, 20), "35M": (480, 12, 20), "150M": (640, 30, 20)}
"""Hidden size, layers and heads."""
OURS, PADDED, SORTED = "proteinlm", "EsmModel, padded", "EsmModel, padded, sorted by length"
WANTED = {PADDED: "at least 2.5", SORTED: "at least 1.5"}
START, PAD, END, UNKNOWN = (ALPHABET.index(token) for token in ("<cls>", "<pad>", "<eos>", "<unk>"))


def embed(shape: str, sample: list[np.ndarray], repeats: int, precision: str) -> list[Figure]:
    """Of the proteins in `sample`, `BATCH` at a time padded, after one round that does not count."""
    with TemporaryDirectory() as folder:
        save(shape, Path(folder))
        ours = load(folder, device="cpu", precision=precision)
        theirs = peers.read_esm(Path(folder))
    in_order = list(range(len(sample)))
    by_length = sorted(in_order, key=lambda place: len(sample[place]))
    given, sorted_ = ([*batches(sample, order)] for order in (in_order, by_length))
    arms: dict[str, Callable[[], object]] = {
        OURS: our_embedding(ours, [[letters.tobytes().decode() for letters in sample]]),
        PADDED: lambda: their_embedding(theirs, given, precision),
        SORTED: lambda: their_embedding(theirs, sorted_, precision),
    }
    seconds = time_in_turns(arms, repeats)
    residues = float(sum(map(len, sample)))
    figures = []
    for name, steps in ((PADDED, given), (SORTED, sorted_)):
        computed = sum(batch.tokens.numel() for batch in steps) / residues
        figures.append(Figure(f"{name}: what it computes of each residue", computed, "times"))
    for name, taken in seconds.items():
        figures.append(Figure(name, rate([residues] * repeats, taken), "residues/s"))
    return figures + [
        Figure(f"{OURS} / {name}", ratio(seconds[name], seconds[OURS]), "times", wanted)
        for name, wanted in WANTED.items()
    ]


def save(shape: str, directory: Path) -> None:
    """A model of ESM-2's `shape`, as transformers saves it."""
    peers.esm2(*SHAPES[shape], ALPHABET).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(ALPHABET) + "\n")


class Batch(NamedTuple):
    """Proteins as EsmModel reads them."""

    tokens: Tensor
    """(B, L) int64."""

    @property
    def real(self) -> Tensor:
        """(B, L) int64: 1 where there is a token."""
        return (self.tokens != PAD).long()

    def mean(self, hidden: Tensor) -> Tensor:
        """Of the states (B, L, H) of each protein's residues, (B, H)."""
        residues = self.real * (self.tokens != START) * (self.tokens != END)
        return (hidden * residues.unsqueeze(-1)).sum(1) / residues.sum(1, keepdim=True)


def batches(sample: list[np.ndarray], order: list[int]) -> Iterator[Batch]:
    """The proteins, `BATCH` at a time in that order."""
    letters = {ord(token): place for place, token in enumerate(ALPHABET) if len(token) == 1}
    for first in range(0, len(order), BATCH):
        proteins = (sample[place].tolist() for place in order[first : first + BATCH])
        rows = [[START, *(letters.get(each, UNKNOWN) for each in protein), END] for protein in proteins]
        yield Batch(torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, PAD))


@torch.inference_mode()
def their_embedding(model: nn.Module, steps: list[Batch], precision: str) -> list[Tensor]:
    """Mean embeddings of the proteins of each batch, (B, H)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        return [
            batch.mean(model(input_ids=batch.tokens, attention_mask=batch.real).last_hidden_state) for batch in steps
        ]
