"""The contestants of one split of a benchmark, and what they predict.

A model's frozen embeddings under a linear probe meet what needs no network. N proteins, E entries: proteins, or residues
that have a label.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmark import baselines
from experiments.benchmark.embeddings import embed
from experiments.benchmark.probes import BLOCK, Blocks, Learnt, blocks_of, logistic, ridge
from experiments.benchmark.scores import Labels
from experiments.controls import windows
from proteinlm.data.csv_labels import LabelledRows
from proteinlm.data.formats.biotrainer import UNKNOWN, Row
from proteinlm.data.label_kinds import CLASS, NUMBER, RESIDUE_NUMBERS, RESIDUES, residue_numbers
from proteinlm.data.similarity import leakage
from proteinlm.errors import InputError
from proteinlm.inference.model import Model

Source = Callable[[Sequence[str]], Iterator[tuple[str, np.ndarray]]]
"""Gives each of the sequences with its features, in the order that is fastest."""


class Entries(NamedTuple):
    """The labels of some proteins."""

    sequences: list[str]
    kept: list[np.ndarray]
    """Of each protein whose residues are labelled, which have a label (L,) bool; empty where proteins are."""
    owner: np.ndarray
    """The place in `sequences` of each entry's protein, (E,) int64."""
    target: np.ndarray
    """(E,): numbers, float64, or those of classes, int64."""

    def blocks(self, source: Source) -> Blocks:
        """The features of all entries, from those of proteins: (F,), or (L, F) where residues are labelled."""
        proteins: dict[str, list[int]] = {}
        for place, sequence in enumerate(self.sequences):
            proteins.setdefault(sequence, []).append(place)
        counts = np.bincount(self.owner, minlength=len(self.sequences))
        begins = np.cumsum(counts) - counts

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            places: list[np.ndarray] = []
            features: list[np.ndarray] = []
            size = 0
            for sequence, of_protein in source([*proteins]):
                for place in proteins[sequence]:
                    features.append(of_protein[self.kept[place]] if self.kept else of_protein[None])
                    places.append(begins[place] + np.arange(counts[place]))
                    size += int(counts[place])
                    if size >= BLOCK:
                        yield np.concatenate(places), np.concatenate(features)
                        places, features, size = [], [], 0
            if size:
                yield np.concatenate(places), np.concatenate(features)

        return blocks


@dataclass(frozen=True)
class Split:
    """The proteins of one split, to train on, for validation, and to test on."""

    rows: LabelledRows
    train_proteins: int = 0
    """At most so many of each for training and for validation, see `chosen`; 0: all."""
    test_proteins: int = 0
    main: str = ""
    """The measure by which validation chooses a penalty of classes; by default accuracy."""

    @property
    def kind(self) -> str:
        return self.rows.task.kind

    @property
    def is_of_residues(self) -> bool:
        return self.kind in (RESIDUES, RESIDUE_NUMBERS)

    @cached_property
    def train(self) -> Entries:
        return self._entries("train", self.train_proteins)

    @cached_property
    def valid(self) -> Entries:
        return self._entries("valid", self.train_proteins)

    @cached_property
    def test(self) -> Entries:
        if "test" not in self.rows.splits:
            raise InputError(f"{self.rows.path}: no protein is for the test")
        return self._entries("test", self.test_proteins)

    def _entries(self, split: str, most: int) -> Entries:
        rows = chosen(self.rows.splits[split], most)
        labels = [self._labels(row) for row in rows]
        sequences = [row.sequence for row in rows]
        if not self.is_of_residues:
            return Entries(sequences, [], np.arange(len(rows)), np.concatenate(labels))
        kept = [~np.isnan(label) if self.kind == RESIDUE_NUMBERS else label >= 0 for label in labels]
        target = np.concatenate([label[there] for label, there in zip(labels, kept, strict=True)])
        return Entries(sequences, kept, np.repeat(np.arange(len(rows)), [there.sum() for there in kept]), target)

    def _labels(self, row: Row) -> np.ndarray:
        if self.kind == RESIDUE_NUMBERS:
            return residue_numbers(row).astype(np.float64)
        if self.kind == NUMBER:
            return np.array([float(row.label)])
        numbers = {name: number for number, name in enumerate(self.rows.task.classes)} | {UNKNOWN: -1}
        return np.array([numbers[name] for name in (row.label if self.kind == RESIDUES else [row.label])])

    @property
    def labels(self) -> Labels:
        """The labels of the test proteins."""
        classes = len(self.rows.task.classes) if self.kind in (CLASS, RESIDUES) else 0
        return Labels(self.kind, classes, len(self.test.sequences), self.test.owner, self.test.target)

    def fit(self, source: Source) -> np.ndarray:
        """The predictions (E,) for the test entries by a linear probe on the features of proteins or of residues."""
        train, valid = (Learnt(part.blocks(source), part.target) for part in (self.train, self.valid))
        if self.kind in (CLASS, RESIDUES):
            probe = logistic(train, valid, len(self.rows.task.classes), self.main or "accuracy")
        else:
            probe = ridge(train, valid)
        return probe(self.test.blocks(source))


def chosen(rows: list[Row], most: int) -> list[Row]:
    """At most so many of `rows`, in their order; 0: all.

    Those whose sequences have the lowest digests, so that splits of the same proteins choose mostly the same ones.
    """
    if not 0 < most < len(rows):
        return rows
    digests = [hashlib.sha256(row.sequence.encode()).digest() for row in rows]
    return [rows[place] for place in sorted(sorted(range(len(rows)), key=digests.__getitem__)[:most])]


def model_predictions(split: Split, model: Model, cache: Path) -> np.ndarray:
    """The predictions of a linear probe on the frozen embeddings: of residues, or the mean over them."""
    sequences = [*split.train.sequences, *split.valid.sequences, *split.test.sequences]
    return split.fit(embed(model, sequences, "residue" if split.is_of_residues else "mean", cache))


def baseline_predictions(split: Split, wildtype: str) -> dict[str, np.ndarray]:
    """The predictions of whatever needs no network, by name."""
    train, test = split.train, split.test
    if split.kind in (CLASS, RESIDUES):
        commonest = np.bincount(train.target).argmax()
        found = {"majority": np.full(len(test.target), commonest)}
        if split.kind == RESIDUES:
            found["window of 17 residues"] = split.fit(_each(_window))
        return found
    found = {"mean": np.full(len(test.target), train.target.mean())}
    if split.kind == RESIDUE_NUMBERS:
        return found | {
            "composition of 17 residues": split.fit(_each(baselines.composition)),
            "window of 17 residues": split.fit(_each(_window)),
        }
    if len({len(sequence) for sequence in train.sequences + split.valid.sequences + test.sequences}) == 1:
        found |= _of_variants(split)
    if wildtype:
        found["Levenshtein"] = baselines.levenshtein(test.sequences, wildtype)
        if len(wildtype) == len(test.sequences[0]):
            found["BLOSUM62"] = baselines.blosum62(test.sequences, wildtype)
    return found


def _of_variants(split: Split) -> dict[str, np.ndarray]:
    parts = (split.train, split.valid, split.test)
    features = baselines.one_hot([sequence for part in parts for sequence in part.sequences])
    train, valid, test = np.split(features, np.cumsum([len(part.sequences) for part in parts])[:-1])
    both = np.concatenate([train, valid]), np.concatenate([split.train.target, split.valid.target])
    probe = ridge(Learnt(blocks_of(train), split.train.target), Learnt(blocks_of(valid), split.valid.target))
    return {
        "ridge on one-hot": probe(blocks_of(test)),
        "ridge on one-hot, as FLIP": baselines.flips_ridge(*both)(test),
        "site-independent": baselines.site_independent(train)(test),
    }


def _each(features: Callable[[str], np.ndarray]) -> Source:
    return lambda sequences: ((sequence, features(sequence)) for sequence in sequences)


def _window(sequence: str) -> np.ndarray:
    return windows(np.frombuffer(sequence.encode(), np.uint8))[:, :-1]


def relatives(split: Split) -> str:
    """How many test proteins have a close relative among those to train on, in words."""
    letters = [
        [np.frombuffer(sequence.encode(), np.uint8) for sequence in part.sequences]
        for part in (split.test, split.train)
    ]
    closest = leakage.built_in(*letters)
    shares = ", ".join(f"{np.mean(closest >= least):.1%} at least {least:.0%}" for least in leakage.THRESHOLDS)
    return f"test proteins with a relative among those to train on, by identity: {shares}"
