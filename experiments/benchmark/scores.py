"""How contestants of a benchmark are scored: every measure with its interval, and who cannot be told from the best.

E entries: proteins, or residues that have a label. Imports no torch.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from proteinlm.data.label_kinds import CLASS, NUMBER, RESIDUE_NUMBERS, RESIDUES
from proteinlm.records.bootstrap import Interval, Sample, bootstrap, paired_bootstrap
from proteinlm.records.measures import CLASSES, NUMBERS, RANKINGS, Measured, Tallies

MAIN = {CLASS: "accuracy", NUMBER: "spearman", RESIDUES: "accuracy", RESIDUE_NUMBERS: "spearman"}
"""The measure that says who is best, by kind of label."""
UNBALANCED = {"flip/bind": "macro_f1"}
"""The benchmarks whose commonest class is nearly all of them, and the measure that says who is best there."""
SIGNIFICANCE = 0.05
RANKS = ("site-independent", "Levenshtein", "BLOSUM62")
"""Contestants whose predictions only rank: they are in no unit of the targets."""


class Labels(NamedTuple):
    """The labels of the test proteins."""

    kind: str
    classes: int
    """How many there are; 0 of numbers."""
    proteins: int
    owner: np.ndarray
    """The place of each entry's protein, (E,) int64."""
    target: np.ndarray
    """(E,): numbers, float64, or those of classes, int64."""

    def samples(self, prediction: np.ndarray) -> dict[str, Sample]:
        """The scores of predictions (E,), by measure."""
        record = np.arange(self.proteins)
        if self.kind in (CLASS, RESIDUES):
            return {
                name: Tallies.of(record, self.owner, prediction, self.target, self.classes, measure)
                for name, measure in CLASSES.items()
            }
        measures = NUMBERS | (RANKINGS if self.kind == NUMBER else {})
        return {
            name: Measured(record, self.owner, prediction, self.target, measure) for name, measure in measures.items()
        }


class Score(NamedTuple):
    """One number of the table."""

    value: float
    interval: Interval


class Line(NamedTuple):
    """A contestant's scores."""

    name: str
    scores: dict[str, Score]
    ties: bool
    """Whether it is the best by the main measure, or cannot be told from it."""


def main_measure(benchmark: str, kind: str) -> str:
    """The measure that says who is best on a benchmark with labels of a kind, and which penalty of a probe."""
    return UNBALANCED.get(benchmark, MAIN[kind])


def compare(labels: Labels, predictions: Mapping[str, np.ndarray], resamples: int, main: str = "") -> list[Line]:
    """The scores of all contestants on the test proteins, which are drawn again for the intervals.

    The first is the `main` measure, by default that of the kind of label.
    """
    main = main or MAIN[labels.kind]
    samples = {}
    for name, prediction in predictions.items():
        own = labels.samples(prediction)
        samples[name] = {main: own.pop(main), **own}
    undefined = Score(float("nan"), Interval(float("nan"), float("nan")))
    tied = ties({name: own[main] for name, own in samples.items()}, resamples)
    return [
        Line(
            name,
            {
                metric: undefined
                if name in RANKS and metric == "rmse"
                else Score(sample.estimate(), bootstrap(sample, resamples=resamples))
                for metric, sample in own.items()
            },
            name in tied,
        )
        for name, own in samples.items()
    ]


def ties(samples: Mapping[str, Sample], resamples: int) -> set[str]:
    """The names of the best, and of those that a paired comparison on the same proteins cannot tell from it."""
    values = {name: sample.estimate() for name, sample in samples.items()}
    best = max(values, key=lambda name: -np.inf if np.isnan(values[name]) else values[name])
    found = {best}
    for name in samples.keys() - found:
        p_value = paired_bootstrap(samples[best], samples[name], resamples=resamples).p_value
        if p_value > SIGNIFICANCE:  # not of nan: undefined, so no tie
            found.add(name)
    return found


def text(lines: list[Line]) -> list[str]:
    """The table of a split in Markdown; the best and its ties are bold."""
    metrics = list(lines[0].scores)
    rows = [f"| | {' | '.join(metric.replace('_', ' ') for metric in metrics)} |", f"|:--|{'--:|' * len(metrics)}"]
    for line in lines:
        cells = [cell(*score) for score in line.scores.values()]
        if line.ties:
            cells[0] = f"**{cells[0]}**"
        rows.append(f"| {line.name} | {' | '.join(cells)} |")
    return rows


def cell(value: float, interval: Interval) -> str:
    """A score and its interval for a reader."""
    if np.isnan(value):
        return "undefined"
    if np.isnan(interval.low):
        return f"{value:.3f}"
    return f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
