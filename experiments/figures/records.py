"""What the figures need beside the rows of the table: training curves and contact maps."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.table7.published import TABLE7
from experiments.table7.rows import PRETRAIN, SCRATCH, Row
from proteinlm.errors import InputError
from proteinlm.records import contact_map
from proteinlm.records.contact_map import ContactMap
from proteinlm.records.run_directory import ALIGNMENTS, CONTACT_MAP, METRICS, MSA_TRANSFORMER, NEURAL_POTTS


@dataclass(frozen=True)
class Curve:
    """One metric of a pretraining as it went on; n values."""

    tokens: np.ndarray  # (n,) in millions
    hours: np.ndarray  # (n,)
    value: np.ndarray  # (n,)


def curve(row: Row, metric: str) -> Curve | None:
    """`metric` of the pretraining of a row; None if it was not tracked.

    Tokens and hours are those logged with it; records without them get the share of the total that the step is.
    """
    result, file = row.results.get(PRETRAIN), row.directory / PRETRAIN / METRICS
    if result is None or not file.exists():
        return None
    values = _read(file)
    steps = np.array(sorted(values.get(metric, {})))
    if not len(steps):
        return None
    share = steps / result.steps
    tokens = _at(steps, values.get("progress/tokens", {}), share * result.tokens)
    hours = _at(steps, values.get("progress/hours", {}), share * result.seconds / 3600)
    return Curve(tokens / 1e6, hours, np.array([values[metric][step] for step in steps.tolist()]))


def _read(file: Path) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    with file.open(newline="") as opened:
        for place, row in enumerate(csv.DictReader(opened)):
            try:
                values.setdefault(row["metric"], {})[int(row["step"])] = float(row["value"])
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{file}, line {place + 2}: not step,metric,value") from None
    return values


def _at(steps: np.ndarray, known: dict[int, float], otherwise: np.ndarray) -> np.ndarray:
    return np.array([known.get(step, other) for step, other in zip(steps.tolist(), otherwise.tolist(), strict=True)])


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` neighbours, fewer at the ends: (n,) to (n,)."""
    padded = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.minimum(np.arange(len(values)) + window // 2 + 1, len(values))
    begins = np.maximum(np.arange(len(values)) - window // 2, 0)
    return (padded[ends] - padded[begins]) / (ends - begins)


@dataclass(frozen=True)
class Maps:
    """Two views of one protein: ours, and what it is compared with."""

    ours: ContactMap
    row: str
    other: ContactMap
    other_name: str
    aligned: dict[str, ContactMap] = field(default_factory=dict)
    """What `experiments.alignments` has drawn of the same protein, by the names of the models."""


def maps(rows: list[Row]) -> Maps | None:
    """The map of the row of highest P@L beside its control's; None if no row has left one.

    Another row's control stands in for it, and without any what nearness along the sequence gives (`experiments.controls`).
    """
    having = [row for row in rows if (row.directory / "contact" / CONTACT_MAP).is_file()]
    ten = [row for row in having if row.name in TABLE7]
    if not ten:
        return None
    best = max(ten, key=lambda row: row.cells["precision_at_l"].value or 0.0)
    ours = contact_map.load(best.directory / "contact")
    aligned = _aligned(best.directory.parent / ALIGNMENTS, ours)
    for control in sorted((row for row in having if row.control), key=lambda row: row.name != SCRATCH + best.name):
        other = contact_map.load(control.directory / "contact")
        if (other.record, other.length) == (ours.record, ours.length):
            return Maps(ours, best.name, other, control.name, aligned)
    position = np.arange(ours.length, dtype=np.float32)
    nearness = -np.abs(position[:, None] - position)
    control = ContactMap(ours.name, ours.record, ours.seed, nearness, ours.contacts, ours.resolved)
    return Maps(ours, best.name, control, "nearest along the sequence", aligned)


def _aligned(directory: Path, ours: ContactMap) -> dict[str, ContactMap]:
    """The maps of the same protein that `experiments.alignments` has left in `directory`."""
    places = {
        "Potts model of an alignment": directory,
        "MSA Transformer of an alignment": directory / MSA_TRANSFORMER,
        "Neural Potts model of the protein": directory / NEURAL_POTTS,
    }
    found = {name: contact_map.load(place) for name, place in places.items() if (place / CONTACT_MAP).is_file()}
    return {name: each for name, each in found.items() if (each.record, each.length) == (ours.record, ours.length)}
