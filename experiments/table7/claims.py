"""What the paper says about depth and width, held against a table: supported, contradicted, or not decided by it.

Each verdict comes from one statistic per column, named beside it. A claim is supported if most columns speak for it beyond
their 95 % interval and none against it; the other way round it is contradicted; else the table cannot decide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import atanh, log2, sqrt, tanh
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import SCRATCH, Row, is_shape, shape_of
from proteinlm.config import ModelConfig
from proteinlm.records.bootstrap import Difference

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "cannot decide"
FEW_LAYERS = 8
MARGIN = 2
"""Hundredths of a score that the recommended range may cost and still count as good."""
TITLES = {column.key: column.title for column in COLUMNS}


class Finding(NamedTuple):
    """A claim and what the table says of it."""

    claim: str
    verdict: str
    statistic: str
    """What was computed."""
    evidence: str
    """Its values."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True)
class Points:
    """The ten rows as numbers: a shape each, and a value in each column."""

    shapes: Sequence[ModelConfig]
    parameters: Sequence[int]
    columns: Mapping[str, Sequence[float]]


def of_paper() -> list[Finding]:
    """The paper's own ten rows."""
    shapes = [shape_of(name) for name in TABLE7]
    columns = {column.key: [values[place] for values in TABLE7.values()] for place, column in enumerate(COLUMNS)}
    points = Points(shapes, [shape.parameters for shape in shapes], columns)
    return [bigger(points), depth_or_width(points), _balance_of_paper(points), _few_layers([])]


def of_rows(rows: list[Row]) -> list[Finding]:
    """Our rows; columns in which one of the ten is missing are left out."""
    ten = [row for row in rows if row.name in TABLE7]
    whole = [column.key for column in COLUMNS if all(row.cells[column.key].value is not None for row in ten)]
    if not whole:
        return []
    values = {key: [row.cells[key].value or 0.0 for row in ten] for key in whole}
    points = Points([row.built for row in ten], [row.parameters for row in ten], values)
    return [bigger(points), depth_or_width(points), _balance(ten, whole), _few_layers(rows), *_pretraining(rows)]


def bigger(points: Points) -> Finding:
    found = {key: rank_correlation(points.parameters, values) for key, values in points.columns.items()}
    return Finding(
        "Bigger is better.", _verdict(found), "Spearman's rank correlation of parameters and score", _listed(found)
    )


def depth_or_width(points: Points) -> Finding:
    found = {}
    for key, values in points.columns.items():
        found[key] = depth_minus_width(points.shapes, values)
    return Finding(
        "Depth matters more than width.",
        _verdict(found),
        "what a doubling of the layers adds to the score, less what a doubling of the hidden size adds, in hundredths "
        "(least squares)",
        _listed(found),
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Spearman's, with the interval of Bonett and Wright (2000): Fisher's z, variance ``(1 + r^2 / 2) / (n - 3)``."""
    if len(set(second)) == 1:
        return Estimate(0.0, -1.0, 1.0)
    value = float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])
    z = atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    half = float(stats.norm.ppf(0.975)) * sqrt((1 + value**2 / 2) / (len(first) - 3))
    return Estimate(value, tanh(z - half), tanh(z + half))


def depth_minus_width(shapes: Sequence[ModelConfig], values: Sequence[float]) -> Estimate:
    """Difference of the slopes of ``100 score = a + b log2 hidden + c log2 layers``: c - b, with Student's interval."""
    design = np.array([[1, log2(shape.hidden_size), log2(shape.num_layers)] for shape in shapes])
    solution, *_ = np.linalg.lstsq(design, 100 * np.array(values), rcond=None)
    freedom = len(values) - design.shape[1]
    residuals = 100 * np.array(values) - design @ solution
    contrast = np.array([0, -1, 1])
    variance = residuals @ residuals / freedom * (contrast @ np.linalg.inv(design.T @ design) @ contrast)
    half = float(stats.t.ppf(0.975, freedom)) * sqrt(variance)
    value = float(contrast @ solution)
    return Estimate(value, value - half, value + half)


BALANCE = "512 < hidden size < 3072 with 8 < layers < 24 balances cost and quality."


def is_balanced(shape: ModelConfig) -> bool:
    """Whether a full shape is in the range that the paper recommends."""
    return 512 < shape.hidden_size < 3072 and 8 < shape.num_layers < 24


def _balance(ten: list[Row], columns: list[str]) -> Finding:
    inside, outside = ([row for row in ten if is_balanced(row.full) is wanted] for wanted in (True, False))
    found, ratios = {}, []
    for key in columns:
        first, second = (max(rows, key=_value_in(key)) for rows in (inside, outside))
        found[key] = _in_hundredths(first.minus(second, key))
        ratios.append(first.flops / second.flops)
    as_good = sum(each.low > -MARGIN for each in found.values())
    worse = sum(each.high < 0 for each in found.values())
    verdict = SUPPORTED if 2 * as_good > len(found) else CONTRADICTED if 2 * worse > len(found) else UNDECIDED
    return Finding(
        BALANCE,
        verdict,
        "best row in the range less best row outside, in hundredths (paired bootstrap)",
        f"{_listed(found)}; surely no more than {MARGIN} worse in {as_good}, surely worse in {worse} of {len(found)} "
        f"columns, at {min(ratios):.2f} to {max(ratios):.2f} times the FLOPs",
    )


def _balance_of_paper(points: Points) -> Finding:
    gaps, ratios = [], []
    inside = [is_balanced(shape) for shape in points.shapes]
    for key, values in points.columns.items():
        ranked = sorted(zip(values, inside, points.shapes, strict=True), key=lambda each: -each[0])
        first, second = next(each for each in ranked if each[1]), next(each for each in ranked if not each[1])
        gaps.append(f"{TITLES[key]} {100 * (first[0] - second[0]):+.1f}")
        ratios.append(first[2].parameters / second[2].parameters)
    return Finding(
        BALANCE,
        UNDECIDED,
        "best row in the range less best row outside, in hundredths; no intervals were published",
        f"{', '.join(gaps)}, at {min(ratios):.2f} to {max(ratios):.2f} times the parameters",
    )


def _few_layers(rows: list[Row]) -> Finding:
    claim = f"Fewer than {FEW_LAYERS} layers fail."
    shallow = [
        row
        for row in rows
        if row.name not in TABLE7 and is_shape(row.name) and not row.baseline and row.full.num_layers < FEW_LAYERS
    ]
    if not shallow or shallow[0].missing:
        told = "none of the ten rows has so few; experiment/other=hidden-8192-layer-3 adds one"
        return Finding(claim, UNDECIDED, "score against the best of the ten rows", told)
    (row, *_), ten = shallow, [row for row in rows if row.name in TABLE7]
    found = {}
    for key in TITLES:
        best = max(ten, key=_value_in(key))
        found[key] = _in_hundredths(row.minus(best, key))
    verdict = _verdict({key: Estimate(-value, -high, -low) for key, (value, low, high) in found.items()})
    return Finding(
        claim, verdict, f"{row.name} less the best of the ten, in hundredths (paired bootstrap)", _listed(found)
    )


def _pretraining(rows: list[Row]) -> list[Finding]:
    """One finding for each control row whose pretrained row is there."""
    by_name = {row.name: row for row in rows}
    findings = []
    for control in rows:
        row = by_name.get(control.name.removeprefix(SCRATCH))
        if not control.control or control.missing or row is None or row.missing:
            continue
        found = {key: _in_hundredths(row.minus(control, key)) for key in TITLES}
        statistic = f"{row.name} less the same shape from random weights, in hundredths (paired bootstrap)"
        findings.append(Finding("Pretraining helps.", _verdict(found), statistic, _listed(found)))
    return findings


def _verdict(found: Mapping[str, Estimate]) -> str:
    above = sum(each.low > 0 for each in found.values())
    below = sum(each.high < 0 for each in found.values())
    if 2 * above > len(found) and not below:
        return SUPPORTED
    return CONTRADICTED if 2 * below > len(found) and not above else UNDECIDED


def _value_in(key: str) -> Callable[[Row], float]:
    return lambda row: row.cells[key].value or 0.0


def _in_hundredths(difference: Difference) -> Estimate:
    return Estimate(*(100 * number for number in difference[:3]))


def _listed(found: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{TITLES[key]} {estimate}" for key, estimate in found.items())
