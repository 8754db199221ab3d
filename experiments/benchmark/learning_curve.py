"""How a score on frozen embeddings depends on the head, and on how many proteins it is fitted to.

``python -m experiments.benchmark.learning_curve tape/stability --root DATA --model DIR --heads linear,mlp --proteins 500``

The embeddings are those that ``experiments.benchmark`` keeps, and ``linear`` is its probe. The other heads are those of
TAPE and the paper. AdamW fits them to features that are standardised, and the weights of the epoch that scores best on
validation are kept. A split's smaller numbers of proteins are parts of its larger ones.

N proteins, T residues of several, H features, C classes or 1.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.benchmark import scores
from experiments.benchmark.contest import Entries, Source, Split, chosen
from experiments.benchmark.embeddings import embed, load_model
from experiments.benchmark.named import open_benchmark
from proteinlm.data.batches.packing import cut
from proteinlm.data.label_kinds import CLASS, NUMBER, RESIDUES
from proteinlm.errors import InputError
from proteinlm.inference.model import Placement
from proteinlm.launch import entry
from proteinlm.models.heads import Head, ProteinMLP, ProteinWeightNorm, ResidueConvolution, ResidueMLP
from proteinlm.models.seeding import reseed
from proteinlm.records.measures import spearman
from proteinlm.storage.cache import default_cache

LINEAR, DROPOUT = "linear", 0.1
OF_PROTEINS: dict[str, Callable[[int, int], Head]] = {
    "mlp": lambda width, classes: ProteinMLP(width, classes, DROPOUT),
    "weight_norm": lambda width, classes: ProteinWeightNorm(width, classes, DROPOUT, pooler=False),
}
OF_RESIDUES: dict[str, Callable[[int, int], Head]] = {
    "mlp": lambda width, classes: ResidueMLP(width, classes, DROPOUT),
    "convolution": lambda width, classes: ResidueConvolution(width, classes, DROPOUT, width=128),
}
"""The heads by the names of ``task.head``. TAPE's convolution is 512 wide, which takes four times as long."""
KINDS = (CLASS, NUMBER, RESIDUES)
EPOCHS, PATIENCE = 30, 4
LEARNING_RATE = 1e-3
PROTEINS, TOKENS = 64, 2048
"""In a batch: so many proteins that have one label, or about so many residues."""


class Labelled(NamedTuple):
    """The features and labels of some proteins."""

    rows: list[np.ndarray]
    """Of each protein (L, H), or (1, H) where proteins are labelled."""
    kept: list[np.ndarray]
    """Which of its rows have a label, (L,) bool."""
    targets: list[np.ndarray]
    """The labels of those."""

    @classmethod
    def of(cls, entries: Entries, source: Source) -> Self:
        features = dict(source(entries.sequences))
        rows = [np.atleast_2d(features[sequence]) for sequence in entries.sequences]
        kept = entries.kept or [np.ones(1, bool)] * len(rows)
        return cls(rows, kept, np.split(entries.target, np.cumsum([own.sum() for own in kept])[:-1]))


class Fit:
    """A head for one split's labels."""

    def __init__(self, kind: str, head: Callable[[int, int], Head], classes: int, train: Labelled) -> None:
        every = np.concatenate(train.rows)
        self.mean, self.spread = every.mean(axis=0, dtype=np.float64), every.std(axis=0, dtype=np.float64)
        self.spread[self.spread < 1e-6] = 1
        self.is_number, self.size = kind == NUMBER, TOKENS if kind == RESIDUES else PROTEINS
        targets = np.concatenate(train.targets)
        self.centre, self.unit = (targets.mean(), targets.std() or 1.0) if self.is_number else (0.0, 1.0)
        self.head = head(every.shape[1], 1 if self.is_number else classes)
        self.train = train

    def learn(self, valid: Labelled) -> None:
        """Fit the head, until validation has not improved for `PATIENCE` epochs."""
        optimiser = torch.optim.AdamW(self.head.parameters(), LEARNING_RATE)
        best, kept, wanted = -np.inf, self.head.state_dict(), np.concatenate(valid.targets)
        since = 0
        for _ in range(EPOCHS):
            self.head.train()
            for places in self._batches(self.train, torch.randperm(len(self.train.rows)).tolist()):
                optimiser.zero_grad()
                output = self._output(self.train, places)
                target = torch.from_numpy(np.concatenate([self.train.targets[place] for place in places]))
                scaled = (target - self.centre) / self.unit
                loss = F.mse_loss(output[:, 0], scaled.float()) if self.is_number else F.cross_entropy(output, target)
                loss.backward()
                optimiser.step()
            found = self.predict(valid)
            score = spearman(found, wanted) if self.is_number else float((found == wanted).mean())
            since += 1
            if score > best:
                best, kept, since = score, copy.deepcopy(self.head.state_dict()), 0
            if since == PATIENCE:
                break
        self.head.load_state_dict(kept)

    @torch.inference_mode()
    def predict(self, proteins: Labelled) -> np.ndarray:
        """Numbers, or numbers of classes, of all labelled rows."""
        self.head.eval()
        outputs = [self._output(proteins, places) for places in self._batches(proteins, [*range(len(proteins.rows))])]
        output = torch.cat(outputs)
        return (output[:, 0] * self.unit + self.centre if self.is_number else output.argmax(dim=1)).numpy()

    def _batches(self, proteins: Labelled, order: list[int]) -> Iterator[list[int]]:
        lengths = np.array([len(proteins.rows[place]) for place in order])
        for piece in cut(np.arange(len(order)), lengths, max(self.size, int(lengths.max()))):
            yield [order[place] for place in piece.tolist()]

    def _output(self, proteins: Labelled, places: list[int]) -> Tensor:
        """The head's outputs (T, C) for the labelled rows of some proteins."""
        rows = np.concatenate([proteins.rows[place] for place in places])
        starts = np.cumsum([0, *(len(proteins.rows[place]) for place in places)])
        scaled = torch.from_numpy(((rows - self.mean) / self.spread).astype(np.float32))
        output = self.head(scaled, torch.from_numpy(starts))
        assert isinstance(output, Tensor)
        return output[torch.from_numpy(np.concatenate([proteins.kept[place] for place in places]))]


def predictions(split: Split, heads: list[str], source: Source, seed: int) -> dict[str, np.ndarray]:
    """What each of the heads predicts for the labels of the test proteins, by name."""
    found = {}
    for name in heads:
        if name == LINEAR:
            found[name] = split.fit(source)
            continue
        reseed(seed, torch.device("cpu"))
        choices = OF_RESIDUES if split.is_of_residues else OF_PROTEINS
        fit = Fit(split.kind, choices[name], len(split.rows.task.classes), Labelled.of(split.train, source))
        fit.learn(Labelled.of(split.valid, source))
        found[name] = fit.predict(Labelled.of(split.test, source))
    return found


def main(arguments: list[str] | None = None) -> int:
    words = _parse(arguments)
    model = load_model(
        words.model, False, 0, Placement.choose(precision=words.precision, batch_tokens=words.batch_tokens)
    )
    counts, heads = [int(count) for count in words.proteins.split(",")], words.heads.split(",")
    (rows, *others) = open_benchmark(words.root, words.benchmark, words.split).splits.values()
    if others:
        raise InputError(f"{words.benchmark} has several splits: name one by --split")
    narrow = rows._replace(splits=rows.splits | {"valid": chosen(rows.splits["valid"], words.valid)})
    splits = {
        count: Split(narrow, count, words.test, scores.main_measure(words.benchmark, rows.task.kind))
        for count in counts
    }
    largest = max(splits.values(), key=lambda split: len(split.train.sequences))
    if largest.kind not in KINDS:
        raise InputError(f"{words.benchmark} has labels of kind {largest.kind}, not one of {', '.join(KINDS)}")
    choices = [LINEAR, *(OF_RESIDUES if largest.is_of_residues else OF_PROTEINS)]
    if unknown := set(heads) - {*choices}:
        raise InputError(f"--heads {sorted(unknown)[0]} is not one of {', '.join(choices)}")
    every = [sequence for part in (largest.train, largest.valid, largest.test) for sequence in part.sequences]
    cache = words.cache or default_cache()
    source = embed(model, every, "residue" if largest.is_of_residues else "mean", cache / "embeddings")
    found = {
        f"{name}, {len(split.train.sequences):,} proteins": predicted
        for split in splits.values()
        for name, predicted in predictions(split, heads, source, words.seed).items()
    }
    print(*rows.remarks, *scores.text(scores.compare(largest.labels, found, words.resamples)), sep="\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.learning_curve", description=__doc__)
    parser.add_argument("benchmark", help="as tape/stability")
    parser.add_argument("--split", default="", help="as cb513, where there are several")
    parser.add_argument("--root", type=Path, required=True, help="where the benchmark's files are")
    parser.add_argument("--model", type=Path, required=True, help="directory of a model")
    parser.add_argument("--heads", default=LINEAR, help=f"{LINEAR}, mlp, weight_norm, or convolution of residues")
    parser.add_argument("--proteins", required=True, help="numbers of proteins to train on, as 100,200,400; 0: all")
    parser.add_argument("--valid", type=int, default=0, help="at most so many proteins for validation; 0: all")
    parser.add_argument("--test", type=int, default=0, help="at most so many to test on; 0: all")
    parser.add_argument("--precision", default="auto", help="of the embeddings")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="residues to embed at once")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the heads")
    parser.add_argument("--cache", type=Path, help="where embeddings are kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
