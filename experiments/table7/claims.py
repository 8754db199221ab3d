"""What the paper says about depth and width, held against a table: supported, contradicted, or not decided by it.

Each claim is a contrast of a least-squares fit to the ten rows. How far a row lies from what its shape predicts is the
noise of the table, whether it comes from seeds, from test proteins or from a fit that is not quite right; Student's t makes
95 % intervals of it. No claim compares a winner with anything, so no winner's luck is in a verdict.

A verdict comes from one number per row, its standing: each column in standard deviations of the ten rows, averaged over the
columns of a task and then over the tasks. So contacts do not vote three times, nor secondary structure twice. A claim is
supported if the standing's interval lies above zero and that of no task lies below. The other way round it is contradicted,
else the table cannot decide. Student's interval is too narrow where a few rows are skewed: that of the standing is widened
until it holds zero in `SURE` of the tables in which what a fit without the effect leaves of each row is dealt to another
(Freedman and Lane 1983), or the signs of the rows' differences from their controls are changed.
`experiments.table7.error_rate` measures how often tables without an effect are decided.

R rows, C columns, T tasks, P coefficients of a fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import isnan, log2, nan, sqrt
from typing import NamedTuple, Self

import numpy as np
from scipy import stats
from scipy.linalg import null_space

from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import SCRATCH, Row, is_shape, shape_of
from proteinlm.config import ModelConfig
from proteinlm.records.bootstrap import CONFIDENCE

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "cannot decide"
FEW_LAYERS = 8
SHUFFLES = 5000
SURE = 0.96
"""Confidence of the standing's interval: one in a hundred more than is promised, since orders are a sample."""
POWER = 0.8
"""How often the smallest effect that a table is said to see would be seen."""
TITLES = {column.key: column.title for column in COLUMNS}
TASKS = {column.key: column.stage.partition("_q")[0] for column in COLUMNS}
"""The task of each column: Q3 and Q8 are one, and so are the three of contacts."""

BIGGER = "Bigger is better."
DEPTH = "Depth matters more than width."
BALANCE = "512 < hidden size < 3072 with 8 < layers < 24 balances cost and quality."
FEW = f"Fewer than {FEW_LAYERS} layers fail."
PRETRAINING = "Pretraining helps."
STATISTICS = {
    BIGGER: "what a doubling of the parameters adds",
    DEPTH: "what a doubling of the layers adds, less what a doubling of the hidden size adds",
    BALANCE: "what a row in this range scores above one outside of it at equal parameters",
    FEW: "what it scores less than the ten rows predict for its parameters",
    PRETRAINING: "less the same shape from random weights",
}


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    smallest: float
    """The smallest true effect whose interval would leave out zero in four of five tables like this."""

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


class Reading(NamedTuple):
    """What a table says of a claim, in numbers."""

    columns: dict[str, Estimate]
    """In hundredths of a score."""
    tasks: list[Estimate]
    """In standard deviations of the ten rows, and so is `standing`."""
    standing: Estimate

    @property
    def verdict(self) -> str:
        if self.standing.low > 0 and not any(task.high < 0 for task in self.tasks):
            return SUPPORTED
        if self.standing.high < 0 and not any(task.low > 0 for task in self.tasks):
            return CONTRADICTED
        return UNDECIDED


class Finding(NamedTuple):
    """A claim and what the table says of it, in words."""

    claim: str
    verdict: str
    effect: str
    """What the verdict comes from, and the smallest effect that this table could have seen."""
    statistic: str
    """What was computed for each column."""
    evidence: str
    """Its values."""

    @classmethod
    def of(cls, claim: str, reading: Reading, subject: str = "") -> Self:
        columns = reading.columns
        up, down = (
            sum(above) for above in zip(*((each.low > 0, each.high < 0) for each in columns.values()), strict=True)
        )
        standing = reading.standing
        effect = (
            f"{standing} standard deviations of the rows on average of {len(reading.tasks)} tasks; an effect of "
            f"{standing.smallest:.2f} would be seen in four of five such tables; of {len(columns)} columns {up} are surely "
            f"above zero and {down} below"
        )
        statistic = f"{subject} {STATISTICS[claim]}, in hundredths of a score".strip()
        return cls(
            claim, reading.verdict, effect, statistic, ", ".join(f"{TITLES[key]} {columns[key]}" for key in columns)
        )


@dataclass(frozen=True)
class Points:
    """The ten rows as numbers: a shape each, and a value in each column."""

    shapes: Sequence[ModelConfig]
    parameters: Sequence[int]
    columns: Mapping[str, Sequence[float]]


def of_paper() -> list[Finding]:
    """The paper's own ten rows."""
    points = paper()
    return [*_of_ten(points), _no_shallow_row()]


def of_rows(rows: list[Row]) -> list[Finding]:
    """Our rows."""
    points = points_of(rows)
    if not points.columns:
        return []
    findings = _of_ten(points)
    shallow = next((row for row in rows if _is_shallow(row)), None)
    if shallow:
        reading = few_layers(points, shallow.parameters, _scores(shallow))
        findings.append(Finding.of(FEW, reading, shallow.name))
    else:
        findings.append(_no_shallow_row())
    return findings + _of_controls(points, rows)


def points_of(rows: list[Row]) -> Points:
    """The ten of these rows; columns in which one of them has no score are left out."""
    ten = [row for row in rows if row.name in TABLE7]
    scores = [_scores(row) for row in ten]
    whole = [column.key for column in COLUMNS if not any(isnan(each[column.key]) for each in scores)]
    columns = {key: [each[key] for each in scores] for key in whole}
    return Points(
        [row.built for row in ten] if whole else [], [row.parameters for row in ten] if whole else [], columns
    )


def paper() -> Points:
    """The numbers that the paper printed."""
    shapes = [shape_of(name) for name in TABLE7]
    columns = {column.key: [values[place] for values in TABLE7.values()] for place, column in enumerate(COLUMNS)}
    return Points(shapes, [shape.parameters for shape in shapes], columns)


def _of_ten(points: Points) -> list[Finding]:
    readings = {BIGGER: bigger(points), DEPTH: depth_or_width(points), BALANCE: balance(points)}
    return [Finding.of(claim, reading) for claim, reading in readings.items()]


def _of_controls(points: Points, rows: list[Row]) -> list[Finding]:
    found = {row.name.removeprefix(SCRATCH): _scores(row) for row in rows if row.control and not row.missing}
    controls = {place: found[name] for place, name in enumerate(TABLE7) if name in found}
    if len(controls) == len(TABLE7):
        return [
            Finding.of(PRETRAINING, pretraining_of_all(points, [*controls.values()]), "a row, on average of the ten,")
        ]
    names = [*TABLE7]
    return [
        Finding.of(PRETRAINING, pretraining(points, place, control), names[place])
        for place, control in controls.items()
    ]


def bigger(points: Points) -> Reading:
    fit = Fit.of(points, by_parameters(points.parameters))
    return fit.contrast([0, 1])


def depth_or_width(points: Points) -> Reading:
    fit = Fit.of(points, by_shape(points.shapes))
    return fit.contrast([0, -1, 1])


def balance(points: Points) -> Reading:
    """A row that is in the range against one that is not, at equal parameters; returns that diminish speak for the range."""
    inside = [is_balanced(shape_of(name)) for name in TABLE7]
    fit = Fit.of(points, np.column_stack([by_parameters(points.parameters), inside]))
    return fit.contrast([0, 0, 1])


def few_layers(points: Points, parameters: int, scores: Mapping[str, float]) -> Reading:
    """A shallow row against what the ten predict for its parameters: the less it has, the more it speaks for the claim."""
    fit = Fit.of(points, by_parameters(points.parameters))
    (asked,) = by_parameters([parameters])
    return fit.reading(asked @ fit.solution - fit.measured(scores), sqrt(1 + asked @ fit.inverse @ asked))


def pretraining(points: Points, row: int, control: Mapping[str, float]) -> Reading:
    """One of the ten rows against the same shape from random weights, which is as noisy as the ten are."""
    fit = Fit.of(points, by_shape(points.shapes))
    return fit.reading(fit.values[row] - fit.measured(control), sqrt(2))


def pretraining_of_all(points: Points, controls: Sequence[Mapping[str, float]]) -> Reading:
    """Each of the ten rows against its own shape from random weights; how far these differences lie apart is the noise."""
    of_rows = Fit.of(points, by_shape(points.shapes))
    differences = of_rows.values - np.stack([of_rows.measured(control) for control in controls])
    fit = of_rows.to_values(np.ones((len(differences), 1)), differences)
    flipped = _signs(len(differences)) * differences[:, -1]
    noise = np.maximum(flipped.std(axis=1, ddof=1), 1e-12)
    ratios = np.abs(flipped.mean(axis=1)) * sqrt(len(differences)) / noise
    return fit.reading(fit.solution[0], sqrt(fit.inverse.item()), float(np.quantile(ratios, SURE)))


def is_balanced(shape: ModelConfig) -> bool:
    """Whether a full shape is in the range that the paper recommends."""
    return 512 < shape.hidden_size < 3072 and 8 < shape.num_layers < 24


@dataclass(frozen=True)
class Fit:
    """Least squares of everything that is measured of a row: columns, tasks and the standing, M of them in all."""

    keys: tuple[str, ...]
    deviations: np.ndarray
    """(C,), between the ten rows."""
    design: np.ndarray
    """(R, P)"""
    values: np.ndarray
    """(R, M)"""
    solution: np.ndarray
    """(P, M)"""
    inverse: np.ndarray
    """(P, P), of the squares of the design."""
    noise: np.ndarray
    """(M,): standard deviation of a row about the fit."""
    freedom: int

    @classmethod
    def of(cls, points: Points, design: np.ndarray) -> Self:
        """Fit with the design (R, P)."""
        keys, scores = tuple(points.columns), np.array([*points.columns.values()], dtype=float).T
        deviations = scores.std(axis=0, ddof=1)
        return cls._of(keys, deviations, design, _measured(keys, scores, deviations))

    def to_values(self, design: np.ndarray, values: np.ndarray) -> Self:
        """Fit other values (R, M) of the same measures."""
        return self._of(self.keys, self.deviations, design, values)

    @classmethod
    def _of(cls, keys: tuple[str, ...], deviations: np.ndarray, design: np.ndarray, values: np.ndarray) -> Self:
        inverse = np.linalg.inv(design.T @ design)
        solution = inverse @ design.T @ values
        freedom = len(design) - design.shape[1]
        noise = np.sqrt(np.square(values - design @ solution).sum(axis=0) / freedom)
        return cls(keys, deviations, design, values, solution, inverse, noise, freedom)

    def contrast(self, weights: Sequence[float]) -> Reading:
        """Of the coefficients."""
        weighed = np.array(weights, dtype=float)
        errors = sqrt(weighed @ self.inverse @ weighed)
        without = self.design @ null_space(weighed[None])  # all that the coefficients say without the contrast
        standing = self.values[:, -1]
        rest = standing - without @ np.linalg.lstsq(without, standing, rcond=None)[0]
        shuffled = rest[_orders(len(rest))]
        solution = shuffled @ self.design @ self.inverse
        noise = np.sqrt(np.square(shuffled - solution @ self.design.T).sum(axis=1) / self.freedom)
        ratios = np.abs(solution @ weighed) / np.maximum(errors * noise, 1e-12)
        return self.reading(weighed @ self.solution, errors, float(np.quantile(ratios, SURE)))

    def measured(self, scores: Mapping[str, float]) -> np.ndarray:
        """The same measures (M,) of another row."""
        return _measured(self.keys, np.array([[scores[key] for key in self.keys]], dtype=float), self.deviations)[0]

    def reading(self, effect: np.ndarray, errors: float, least: float = 0.0) -> Reading:
        """Of an effect (M,) whose standard error is `errors` times the noise.

        The interval of the standing has at least `least` of these errors on each side.
        """
        bounds = np.full(len(effect), stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom))
        bounds[-1] = max(float(stats.t.ppf((1 + SURE) / 2, self.freedom)), least)
        error = errors * self.noise
        smallest = (bounds + stats.t.ppf(POWER, self.freedom)) * error
        numbers = np.stack([effect, effect - bounds * error, effect + bounds * error, smallest], axis=1)
        found = [Estimate(*each) for each in numbers.tolist()]
        columns = dict(zip(self.keys, found, strict=False))
        return Reading(columns, found[len(columns) : -1], found[-1])


def _measured(keys: Sequence[str], scores: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Columns in hundredths, tasks and standing (R, C + T + 1) from scores (R, C); equal scores add nothing to a task."""
    tasks = [TASKS[key] for key in keys]
    standard = scores / np.where(deviations > 1e-12, deviations, np.inf)
    means = np.stack(
        [standard[:, [each == task for each in tasks]].mean(axis=1) for task in dict.fromkeys(tasks)], axis=1
    )
    return np.column_stack([100 * scores, means, means.mean(axis=1)])


def by_parameters(parameters: Sequence[int]) -> np.ndarray:
    return np.array([[1, log2(number)] for number in parameters])


def by_shape(shapes: Sequence[ModelConfig]) -> np.ndarray:
    return np.array([[1, log2(shape.hidden_size), log2(shape.num_layers)] for shape in shapes])


@lru_cache
def _orders(rows: int) -> np.ndarray:
    """Rows in other orders, (SHUFFLES, R)."""
    return np.random.default_rng(0).permuted(np.tile(np.arange(rows), (SHUFFLES, 1)), axis=1)


@lru_cache
def _signs(rows: int) -> np.ndarray:
    """All ways to turn differences round, (2^R, R)."""
    return np.array([*product((1.0, -1.0), repeat=rows)])


def _is_shallow(row: Row) -> bool:
    named = row.name not in TABLE7 and is_shape(row.name) and not row.baseline
    return named and row.full.num_layers < FEW_LAYERS and not row.missing


def _no_shallow_row() -> Finding:
    told = "none of the ten rows has so few: experiment/other=hidden-8192-layer-3 adds one"
    return Finding(FEW, UNDECIDED, "no row to judge by", STATISTICS[FEW], told)


def _scores(row: Row) -> dict[str, float]:
    return {key: nan if cell.value is None else cell.value for key, cell in row.cells.items()}
