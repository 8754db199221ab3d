"""Numbers that know which record they come from."""

from dataclasses import dataclass
from math import floor, isnan, log10

from experiments.table7.published import COLUMNS, TABLE7, published_row
from experiments.table7.rows import Row
from proteinlm.records.results import RESULT, Result, Score

PUBLISHED = "experiments/table7/published.py"
PLACES = {column.key: place for place, column in enumerate(COLUMNS)}


@dataclass(frozen=True)
class Number:
    """A number as it is shown, as it is recorded, and where: a file of the sweep (or pattern) and a field in it."""

    text: str
    value: float
    file: str
    field: str
    scale: float = 1.0
    """What a 1 in the text stands for."""


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval."""

    value: Number
    low: Number | None
    high: Number | None


def number(value: float, file: str, field: str, digits: int = 3, scale: float = 1.0, unit: str = "") -> Number:
    if isnan(value):
        return Number("undefined", value, file, field, scale)
    text = f"{value / scale:,.{digits}f}".replace("-", "−")
    return Number(text + unit, value, file, field, scale)


def size(value: float, file: str, field: str) -> Number:
    """Three digits and a unit: ``1.50 M``."""
    for scale, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            digits = max(0, 2 - floor(log10(abs(value) / scale)))
            return number(value, file, field, digits, scale, unit)
    return number(value, file, field, 0)


def record(row: Row, stage: str) -> str:
    """The result file of a stage, as seen from the sweep's directory."""
    return f"{row.name}/{stage}/{RESULT}"


def estimate(row: Row, result: Result, score: Score, digits: int = 3, bounds: int = 2) -> Estimate:
    file, place = record(row, result.stage), f"scores[{result.scores.index(score)}]"
    low, high = (
        None if bound is None else number(bound, file, f"{place}.{end}", bounds)
        for end, bound in (("low", score.low), ("high", score.high))
    )
    return Estimate(number(score.value, file, f"{place}.value", digits), low, high)


def cell(row: Row, key: str) -> Estimate | None:
    """The score of a column of the table."""
    score, column = row.cells[key].score, COLUMNS[PLACES[key]]
    return estimate(row, row.results[column.stage], score) if score else None


def published(row: Row, key: str) -> Number | None:
    """The paper's number in a column of the table, or TAPE's of its backbones and of weights of others."""
    place, values = published_row(row.name, row.weights)
    value = values[PLACES[key]] if values else None
    if value is None:
        return None
    return number(value, PUBLISHED, f"{place}[{PLACES[key]}]", 3 if row.name in TABLE7 else 2)


def summed(row: Row, field: str, scale: float, digits: int, unit: str = "") -> Number:
    """A field of the results of all stages together."""
    total = sum(getattr(result, field) for result in row.results.values())
    return number(total, f"{row.name}/*/{RESULT}", f"sum of {field}", digits, scale, unit)
