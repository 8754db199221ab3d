"""The records of benchmarks: ``benchmark.json`` beside the predictions it was made of. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.scores import Labels, Line
from proteinlm.errors import InputError
from proteinlm.records.run_directory import BENCHMARK
from proteinlm.storage.atomic import write_text, written_whole
from proteinlm.storage.untrusted import read_json

PREDICTIONS = "predictions.npz"
RANKING = "ranking"
"""The kind of a record of ProteinGym, whose scores are averages over assays."""


@dataclass(frozen=True)
class Scored:
    """One measure of one contestant, nan where undefined, with its 95 % interval."""

    contestant: str
    metric: str
    value: float
    low: float
    high: float
    tie: bool
    """Whether the contestant is the best by the main measure, or cannot be told from it."""


@dataclass(frozen=True)
class Record:
    """A model on one split of a benchmark, and what it is compared with."""

    model: str
    benchmark: str
    split: str
    kind: str
    classes: int
    main: str
    """The measure that says who is best."""
    counts: dict[str, int]
    """Proteins to ``train`` on, for validation (``valid``) and to ``test`` on, and ``labels`` to test on."""
    scores: list[Scored]
    options: dict[str, Any]
    """What it was asked with, and the fingerprints of the weights."""
    table: str
    processor_seconds: float
    """Of embedding and fitting the models."""
    peak_gib: float
    threads: str
    commit: str
    directory: Path = field(default=Path(), compare=False)

    @property
    def title(self) -> str:
        return f"{self.benchmark} {self.split}"

    def of(self, contestant: str, measure: str = "") -> Scored:
        """A measure of a contestant, by default the main one."""
        wanted = (contestant, measure or self.main)
        return next(each for each in self.scores if (each.contestant, each.metric) == wanted)

    @property
    def contestants(self) -> list[str]:
        return list(dict.fromkeys(each.contestant for each in self.scores))

    def save(self, directory: Path) -> None:
        values = {name: value for name, value in asdict(self).items() if name != "directory"}
        for score in values["scores"]:
            score |= {name: None for name in ("value", "low", "high") if isnan(score[name])}  # JSON has no nan
        write_text(directory / BENCHMARK, json.dumps(values, indent=2) + "\n")


def scored(lines: list[Line]) -> list[Scored]:
    """The lines of a table, number by number."""
    return [
        Scored(line.name, metric, score.value, score.interval.low, score.interval.high, line.ties)
        for line in lines
        for metric, score in line.scores.items()
    ]


def load(file: Path) -> Record:
    """Read one ``benchmark.json``."""
    try:
        values = read_json(file)
        scores = [
            Scored(**each | {name: nan for name, value in each.items() if value is None}) for each in values["scores"]
        ]
        return Record(**{**values, "scores": scores, "directory": file.parent})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: not a benchmark's record of this version ({error})") from None


def load_all(directory: Path) -> list[Record]:
    """Every record below `directory`."""
    return [load(file) for file in sorted(directory.rglob(BENCHMARK))]


def save_predictions(directory: Path, labels: Labels, predictions: Mapping[str, np.ndarray]) -> None:
    with written_whole(directory / PREDICTIONS) as file:
        np.savez(file, allow_pickle=False, owner=labels.owner, target=labels.target, **predictions)


def load_predictions(record: Record) -> tuple[Labels, dict[str, np.ndarray]] | None:
    """The labels and the predictions of each contestant; None of a benchmark that leaves none."""
    file = record.directory / PREDICTIONS
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    labels = Labels(record.kind, record.classes, record.counts["test"], arrays.pop("owner"), arrays.pop("target"))
    return labels, arrays
