"""How a score on frozen embeddings depends on the head, and on how many proteins it is fitted to.

``python -m experiments.benchmark.learning_curve tape/stability --root DATA --model DIR --heads linear,mlp --proteins 500``

The embeddings are those that ``experiments.benchmark`` keeps, and ``linear`` is its probe. The other heads are those of
``task.head``. AdamW fits them to features that are standardised, and the weights of the epoch that scores best on
validation are kept. Each batch reads its features from disk, so the memory does not grow with the number of proteins. A
split's smaller numbers of proteins are parts of its larger ones.

N proteins, L residues of one, T residues of several, H features, C classes or 1.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.benchmark import scores
from experiments.benchmark.contest import Entries, Source, Split, baseline_predictions, chosen
from experiments.benchmark.embeddings import embed, load_model
from experiments.benchmark.named import open_benchmark
from proteinlm.data.batches.packing import cut
from proteinlm.data.label_kinds import CLASS, NUMBER, RESIDUES
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.model import Placement, Pooling
from proteinlm.launch import entry
from proteinlm.models.heads import (
    Head,
    ProteinLightAttention,
    ProteinMLP,
    ProteinPositions,
    ProteinWeightNorm,
    ResidueConvolution,
    ResidueMLP,
)
from proteinlm.models.seeding import reseed
from proteinlm.records.measures import spearman
from proteinlm.storage.cache import default_cache

LINEAR, DROPOUT = "linear", 0.1
MakeHead = Callable[[int, int, int], Head]
"""Makes a head, from the numbers of features, of classes, and of tokens of the longest protein."""
OF_MEANS: dict[str, MakeHead] = {
    "mlp": lambda width, classes, _: ProteinMLP(width, classes, DROPOUT),
    "weight_norm": lambda width, classes, _: ProteinWeightNorm(width, classes, DROPOUT, pooler=False),
}
"""Of proteins, from the mean over their residues."""
OF_STATES: dict[str, MakeHead] = {
    "light_attention": lambda width, classes, _: ProteinLightAttention(width, classes, DROPOUT),
    "positions": lambda width, classes, tokens: ProteinPositions(width, classes, DROPOUT, tokens),
}
"""Of proteins, from the states of all their residues."""
OF_RESIDUES: dict[str, MakeHead] = {
    "mlp": lambda width, classes, _: ResidueMLP(width, classes, DROPOUT),
    "convolution": lambda width, classes, _: ResidueConvolution(width, classes, DROPOUT, width=128),
}
"""The heads by the names of ``task.head``. TAPE's convolution is 512 wide, which takes four times as long."""
KINDS = (CLASS, NUMBER, RESIDUES)
EPOCHS, PATIENCE = 30, 4
LEARNING_RATE = 1e-3
PROTEINS, TOKENS = 64, 2048
"""In a batch: so many proteins of which the mean is known, or about so many residues."""


class Labelled(NamedTuple):
    """Some proteins with their labels, and where their features are read when they are asked for."""

    sequences: list[str]
    kept: list[np.ndarray]
    """Of each protein whose residues are labelled, which are, (L,) bool; empty where proteins are."""
    targets: list[np.ndarray]
    """The labels of each protein."""
    source: Source

    @classmethod
    def of(cls, entries: Entries, source: Source) -> Self:
        counts = np.bincount(entries.owner, minlength=len(entries.sequences))
        return cls(entries.sequences, entries.kept, np.split(entries.target, np.cumsum(counts)[:-1]), source)

    def read(self, places: list[int]) -> list[np.ndarray]:
        """The features of the proteins at some places: each (L, H), or (1, H) of a mean."""
        features = dict(self.source([self.sequences[place] for place in places]))
        return [np.atleast_2d(features[self.sequences[place]]) for place in places]

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of each feature, (H,) float64; 1 for one that never varies."""
        shift = self.read([0])[0].mean(axis=0, dtype=np.float64)  # so a large mean costs no digits
        count, total, squares = 0, np.zeros_like(shift), np.zeros_like(shift)
        times = Counter(self.sequences)
        for sequence, features in self.source([*times]):
            part = np.atleast_2d(features) - shift
            count += times[sequence] * len(part)
            total += times[sequence] * part.sum(axis=0)
            squares += times[sequence] * np.square(part).sum(axis=0)
        deviation = np.sqrt(np.maximum(squares / count - np.square(total / count), 0))
        return shift + total / count, np.where(deviation < 1e-6, 1.0, deviation)


class Fit:
    """A head for the labels of one split."""

    def __init__(self, split: Split, name: str, source: Source, epochs: int, learning_rate: float) -> None:
        parts = (split.train, split.valid, split.test)
        self.train, self.valid, self.test = (Labelled.of(part, source) for part in parts)
        mean, deviation = self.train.scales()
        self.mean, self.deviation = torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
        self.is_number, self.epochs, self.learning_rate = split.kind == NUMBER, epochs, learning_rate
        self.wants_cls = name in OF_STATES
        self.has_residues = self.wants_cls or split.is_of_residues
        targets = np.concatenate(self.train.targets)
        self.centre, self.unit = (targets.mean(), targets.std() or 1.0) if self.is_number else (0.0, 1.0)
        longest = max(len(sequence) for part in parts for sequence in part.sequences)
        make = (OF_RESIDUES if split.is_of_residues else OF_MEANS | OF_STATES)[name]
        self.head = make(len(mean), 1 if self.is_number else len(split.rows.task.classes), longest + 1)

    def learn(self) -> None:
        """Fit the head, and keep the weights of the epoch that is best on validation.

        Over a number of `epochs` the learning rate falls linearly to zero. Without one it stays, and learning ends once
        validation has not improved for `PATIENCE` epochs.
        """
        optimiser = torch.optim.AdamW(self.head.parameters(), self.learning_rate)
        best, kept, wanted = -np.inf, self.head.state_dict(), np.concatenate(self.valid.targets)
        since, epochs, proteins = 0, self.epochs or EPOCHS, len(self.train.sequences)
        with Bar("fitting", epochs * proteins, of_bytes=False) as bar:
            for epoch in range(epochs):
                self.head.train()
                seen = epoch * proteins
                for places in self._batches(self.train, torch.randperm(proteins).tolist()):
                    if self.epochs:
                        optimiser.param_groups[0]["lr"] = self.learning_rate * (1 - seen / (epochs * proteins))
                    optimiser.zero_grad()
                    self._loss(places).backward()
                    optimiser.step()
                    seen += len(places)
                    bar.advance(len(places))
                found = self.predict(self.valid)
                score = spearman(found, wanted) if self.is_number else float((found == wanted).mean())
                since += 1
                if score > best:
                    best, kept, since = score, copy.deepcopy(self.head.state_dict()), 0
                if since == PATIENCE and not self.epochs:
                    break
        self.head.load_state_dict(kept)

    @torch.inference_mode()
    def predict(self, proteins: Labelled) -> np.ndarray:
        """Numbers, or numbers of classes, of all that is labelled."""
        self.head.eval()
        order = [*range(len(proteins.sequences))]
        output = torch.cat([self._output(proteins, places) for places in self._batches(proteins, order)])
        return (output[:, 0] * self.unit + self.centre if self.is_number else output.argmax(dim=1)).numpy()

    def _loss(self, places: list[int]) -> Tensor:
        output = self._output(self.train, places)
        target = torch.from_numpy(np.concatenate([self.train.targets[place] for place in places]))
        if not self.is_number:
            return F.cross_entropy(output, target)
        return F.mse_loss(output[:, 0], ((target - self.centre) / self.unit).float())

    def _batches(self, proteins: Labelled, order: list[int]) -> Iterator[list[int]]:
        size, rows = PROTEINS, np.ones(len(order), np.int64)
        if self.has_residues:
            size, rows = TOKENS, np.array([len(proteins.sequences[place]) for place in order])
        for piece in cut(np.arange(len(order)), rows, max(size, int(rows.max()))):
            yield [order[place] for place in piece.tolist()]

    def _output(self, proteins: Labelled, places: list[int]) -> Tensor:
        """The head's outputs for what is labelled in some proteins, (N, C) or (T, C)."""
        parts = [(torch.from_numpy(rows).float() - self.mean) / self.deviation for rows in proteins.read(places)]
        if self.wants_cls:  # embeddings have no state of it: zeros, the mean of all states, stand there
            parts = [F.pad(part, (0, 0, 1, 0)) for part in parts]
        output = self.head(torch.cat(parts), torch.tensor([0, *accumulate(map(len, parts))]))
        assert isinstance(output, Tensor)
        if not proteins.kept:
            return output
        return output[torch.from_numpy(np.concatenate([proteins.kept[place] for place in places]))]


def pooling(split: Split, head: str) -> Pooling:
    """How embeddings are pooled for a head."""
    return "residue" if split.is_of_residues or head in OF_STATES else "mean"


def predictions(
    split: Split,
    heads: list[str],
    sources: Mapping[Pooling, Source],
    seed: int,
    epochs: int = 0,
    learning_rate: float = LEARNING_RATE,
) -> dict[str, np.ndarray]:
    """What each of the heads predicts for the labels of the test proteins, by name."""
    found = {}
    for name in heads:
        source = sources[pooling(split, name)]
        if name == LINEAR:
            found[name] = split.fit(source)
            continue
        reseed(seed, torch.device("cpu"))
        fit = Fit(split, name, source, epochs, learning_rate)
        fit.learn()
        found[name] = fit.predict(fit.test)
    return found


def main(arguments: list[str] | None = None) -> int:
    words = _parse(arguments)
    if not 0 < words.learning_rate < np.inf:
        raise InputError(f"--learning-rate {words.learning_rate}: must be above zero")
    model = load_model(
        words.model, False, 0, Placement.choose(precision=words.precision, batch_tokens=words.batch_tokens)
    )
    counts, heads = [int(count) for count in words.proteins.split(",")], words.heads.split(",")
    benchmark = open_benchmark(words.root, words.benchmark, words.split)
    (rows, *others) = benchmark.splits.values()
    if others:
        raise InputError(f"{words.benchmark} has several splits: name one by --split")
    narrow = rows._replace(splits=rows.splits | {"valid": chosen(rows.splits["valid"], words.valid)})
    measure = scores.main_measure(words.benchmark, rows.task.kind)
    splits = {count: Split(narrow, count, words.test, measure) for count in counts}
    largest = max(splits.values(), key=lambda split: len(split.train.sequences))
    if largest.kind not in KINDS:
        raise InputError(f"{words.benchmark} has labels of kind {largest.kind}, not one of {', '.join(KINDS)}")
    choices = [LINEAR, *(OF_RESIDUES if largest.is_of_residues else OF_MEANS | OF_STATES)]
    if unknown := set(heads) - {*choices}:
        raise InputError(f"--heads {sorted(unknown)[0]} is not one of {', '.join(choices)}")
    every = [sequence for part in (largest.train, largest.valid, largest.test) for sequence in part.sequences]
    cache = (words.cache or default_cache()) / "embeddings"
    poolings: set[Pooling] = {pooling(largest, head) for head in heads}
    sources: dict[Pooling, Source] = {each: embed(model, every, each, cache) for each in poolings}
    found = {
        f"{name}, {len(split.train.sequences):,} proteins": predicted
        for split in splits.values()
        for name, predicted in predictions(split, heads, sources, words.seed, words.epochs, words.learning_rate).items()
    }
    if words.baselines:
        found |= baseline_predictions(largest, benchmark.wildtype)
    print(*rows.remarks, *scores.text(scores.compare(largest.labels, found, words.resamples, measure)), sep="\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.learning_curve", description=__doc__)
    parser.add_argument("benchmark", help="as tape/stability")
    parser.add_argument("--split", default="", help="as cb513, where there are several")
    parser.add_argument("--root", type=Path, required=True, help="where the benchmark's files are")
    parser.add_argument("--model", type=Path, required=True, help="directory of a model")
    parser.add_argument(
        "--heads",
        default=LINEAR,
        help=f"{', '.join([LINEAR, *OF_MEANS, *OF_STATES])}; of residues {', '.join([LINEAR, *OF_RESIDUES])}",
    )
    parser.add_argument("--proteins", required=True, help="numbers of proteins to train on, as 100,200,400; 0: all")
    parser.add_argument("--valid", type=int, default=0, help="at most so many proteins for validation; 0: all")
    parser.add_argument("--test", type=int, default=0, help="at most so many to test on; 0: all")
    parser.add_argument(
        "--epochs",
        type=int,
        default=0,
        help="so many, with a learning rate that falls to zero; 0: until validation has not improved for a while",
    )
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="of the heads but the linear probe")
    parser.add_argument("--baselines", action="store_true", help="compare with what needs no network")
    parser.add_argument("--precision", default="auto", help="of the embeddings")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="residues to embed at once")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the heads")
    parser.add_argument("--cache", type=Path, help="where embeddings are kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
