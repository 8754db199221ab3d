"""The statistics behind the reading of the table are those of independent computations, and verdicts follow from them."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.table7 import claims
from experiments.table7.claims import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Finding,
    Points,
    depth_minus_width,
    is_balanced,
    rank_correlation,
)
from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import SCRATCH, shape_of
from proteinlm.config import ModelConfig
from proteinlm.records.bootstrap import Difference


def test_rank_correlation_is_scipys_and_its_interval_covers():
    generator = np.random.default_rng(0)
    covered = 0
    truth = 6 / np.pi * np.arcsin(0.7 / 2)  # Spearman's of two normals whose correlation is 0.7
    for _ in range(400):
        first = generator.normal(size=10)
        second = 0.7 * first + np.sqrt(1 - 0.7**2) * generator.normal(size=10)
        found = rank_correlation(first.tolist(), second.tolist())
        assert found.value == pytest.approx(stats.spearmanr(first, second)[0])
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 400 <= 0.99


def test_depth_less_width_is_the_contrast_of_a_regression():
    generator = np.random.default_rng(1)
    shapes = [ModelConfig(2 ** int(h), 2 ** int(n), 1) for h, n in generator.integers(3, 9, (10, 2))]
    width, depth = (np.log2([getattr(shape, name) for shape in shapes]) for name in ("hidden_size", "num_layers"))
    values = 0.1 + 0.02 * width + 0.05 * depth + 0.001 * generator.normal(size=10)
    found = depth_minus_width(shapes, values.tolist())
    assert found.low < 3 < found.high
    # the same contrast as one coefficient: y = a + b (width + depth) + (c - b) depth
    rest = np.column_stack([np.ones(10), width + depth])
    residual_depth = depth - rest @ np.linalg.lstsq(rest, depth, rcond=None)[0]
    residual_value = values - rest @ np.linalg.lstsq(rest, values, rcond=None)[0]
    assert found.value == pytest.approx(100 * stats.linregress(residual_depth, residual_value).slope)
    left = residual_value - residual_depth * stats.linregress(residual_depth, residual_value).slope
    error = 100 * np.sqrt(left @ left / (10 - 3) / (residual_depth @ residual_depth))
    assert found.high - found.value == found.value - found.low == pytest.approx(stats.t.isf(0.025, 7) * error)


def test_a_column_without_ranks_says_nothing():
    assert rank_correlation(range(10), [0.5] * 10) == (0, -1, 1)
    rising = rank_correlation(range(10), range(10))
    assert 0.99 < rising.low <= rising.high <= 1
    assert rising.value == pytest.approx(1)
    for n in range(4, 20):  # in some of them rounding leaves exactly -1, whose Fisher's z there is not
        assert -1 <= rank_correlation(range(n), range(n, 0, -1)).low < -0.99


def test_the_interval_of_a_rank_correlation_is_bonetts_and_wrights():
    found = rank_correlation(range(10), [5, 3, 4, 1, 2, 0, 6, 7, 8, 9])
    # by hand: 1 - 6 * 66 / 990 = 0.6, z = 0.6931, standard error sqrt(1.18 / 7) = 0.4106
    assert found == pytest.approx((0.6, -0.1111, 0.9047), abs=1e-4)


@pytest.mark.parametrize(
    ("hidden", "layers", "inside"),
    [(513, 9, True), (512, 12, False), (3071, 23, True), (3072, 12, False), (1024, 8, False), (1024, 24, False)],
)
def test_the_recommended_range_has_open_ends(hidden: int, layers: int, inside: bool):
    assert is_balanced(ModelConfig(hidden, layers, 1)) is inside


@dataclass
class Made:
    """A row with the same score in every column; each difference is known to within `sure`."""

    name: str
    score: float
    sure: float = 0.01
    full: ModelConfig = field(init=False)
    baseline: bool = False
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.full = self.built = shape_of(self.name.removeprefix(SCRATCH))
        self.parameters = self.flops = self.full.parameters
        self.control = self.name.startswith(SCRATCH)
        self.cells = {column.key: SimpleNamespace(value=self.score) for column in COLUMNS}

    def minus(self, other: "Made", key: str) -> Difference:
        value = self.cells[key].value - other.cells[key].value
        return Difference(value, value - self.sure, value + self.sure, 0.5)


IN_RANGE = [name for name in TABLE7 if name.startswith(("hidden-768", "hidden-1024", "hidden-2048-layer-12"))]


def ten(inside: float = 0.5, outside: float = 0.5) -> list[Made]:
    """Rows in the range and outside of it; the last of each scores as said, the others less."""
    last = (IN_RANGE[-1], next(reversed(TABLE7)))
    return [Made(name, (inside if name in IN_RANGE else outside) - 0.1 * (name not in last)) for name in TABLE7]


def finding(rows: Any, claim: str) -> Finding:
    (found,) = (each for each in claims.of_rows(rows) if each.claim.startswith(claim))
    return found


@pytest.mark.parametrize(
    ("inside", "wanted", "counts"),
    [
        (0.5, SUPPORTED, "surely no more than 2 worse in 8, surely worse in 0 of 8"),
        (0.491, SUPPORTED, "surely no more than 2 worse in 8, surely worse in 0 of 8"),
        (0.489, CONTRADICTED, "surely no more than 2 worse in 0, surely worse in 8 of 8"),
        (0.6, SUPPORTED, "surely no more than 2 worse in 8, surely worse in 0 of 8"),
    ],
)
def test_balance_compares_the_best_of_both_sides(inside: float, wanted: str, counts: str):
    found = finding(ten(inside=inside), "512 <")
    assert found.verdict == wanted
    gap = 100 * (inside - 0.5)
    assert f"Q3 {gap:+.2f} ({gap - 1:+.2f} to {gap + 1:+.2f})" in found.evidence
    assert counts in found.evidence
    ratio = shape_of(IN_RANGE[-1]).parameters / shape_of("hidden-3072-layer-24-head-16").parameters
    assert f"at {ratio:.2f} to {ratio:.2f} times the FLOPs" in found.evidence


def test_balance_is_undecided_where_half_of_the_columns_are_worse():
    rows = ten()
    for row in rows:
        for column in COLUMNS[:4]:
            row.cells[column.key].value -= 0.1 * (row.name in IN_RANGE)
    found = finding(rows, "512 <")
    assert "surely no more than 2 worse in 4, surely worse in 4 of 8" in found.evidence
    assert found.verdict == UNDECIDED


def test_balance_says_the_least_and_the_most_that_the_best_rows_cost():
    rows = ten()
    rows[list(TABLE7).index("hidden-768-layer-12-head-6")].cells["q8"].value = 0.7
    # 12 layers hidden^2 weights: (768 / 3072)^2 / 2 = 0.03 and (2048 / 3072)^2 / 2 = 0.22
    assert "at 0.03 to 0.22 times the FLOPs" in finding(rows, "512 <").evidence


@pytest.mark.parametrize(("score", "wanted"), [(0.45, SUPPORTED), (0.495, UNDECIDED), (0.55, CONTRADICTED)])
def test_few_layers_fail_if_they_score_less_than_the_best(score: float, wanted: str):
    rows = [*ten(), Made("hidden-1024-layer-8-head-16", 0.9), Made("hidden-8192-layer-3", score)]
    found = finding(rows, "Fewer than 8 layers")
    assert found.verdict == wanted
    gap = 100 * (score - 0.5)
    assert f"P@L {gap:+.2f} ({gap - 1:+.2f} to {gap + 1:+.2f})" in found.evidence
    assert finding(rows[:-1], "Fewer").verdict == UNDECIDED


@pytest.mark.parametrize("gone", ["control", "pretrained", "incomplete"])
def test_pretraining_helps_where_the_control_scores_less(gone: str):
    name = next(iter(TABLE7))
    rows, control = ten(), Made(SCRATCH + name, 0.3)
    found = finding([*rows, control], "Pretraining")
    assert found.verdict == SUPPORTED
    assert "Stab. +10.00 (+9.00 to +11.00)" in found.evidence
    if gone == "incomplete":
        control.missing = ("stability",)
    left = {"control": rows, "pretrained": [*rows[1:], control], "incomplete": [*rows, control]}[gone]
    assert not [each for each in claims.of_rows(left) if each.claim.startswith("Pretraining")]  # type: ignore[arg-type]


def test_a_column_with_a_gap_is_left_out():
    rows = ten()
    rows[3].cells["q3"].value = None
    assert "Q3" not in finding(rows, "Bigger").evidence
    assert "Q8" in finding(rows, "Bigger").evidence
    for cell in rows[3].cells.values():
        cell.value = None
    assert claims.of_rows(rows) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("above", "below", "wanted"),
    [
        (5, 0, SUPPORTED),
        (4, 0, UNDECIDED),
        (5, 1, UNDECIDED),
        (0, 5, CONTRADICTED),
        (0, 4, UNDECIDED),
        (1, 5, UNDECIDED),
    ],
)
def test_most_columns_must_speak_and_none_against(above: int, below: int, wanted: str):
    shapes = [ModelConfig(64 * k, 4, 1) for k in range(1, 11)]
    falling, mixed = list(range(10, 0, -1)), [5, 9, 1, 7, 3, 8, 2, 6, 4, 10]
    chosen = [list(range(10))] * above + [falling] * below + [mixed] * (8 - above - below)
    columns = {column.key: values for column, values in zip(COLUMNS, chosen, strict=True)}
    assert claims.bigger(Points(shapes, [shape.parameters for shape in shapes], columns)).verdict == wanted


@pytest.mark.parametrize(
    ("sign", "wanted"), [(1, SUPPORTED), (-1, CONTRADICTED), (0, UNDECIDED)], ids=["rising", "falling", "mixed"]
)
def test_bigger_is_better_follows_the_columns(sign: int, wanted: str):
    shapes = [ModelConfig(64 * k, 4, 1) for k in range(1, 11)]
    signs = [sign or (-1) ** number for number in range(8)]
    columns = {column.key: [each * k for k in range(10)] for column, each in zip(COLUMNS, signs, strict=True)}
    assert claims.bigger(Points(shapes, [shape.parameters for shape in shapes], columns)).verdict == wanted


def test_the_papers_own_numbers():
    bigger, depth, balance, few = claims.of_paper()
    assert bigger.verdict == SUPPORTED
    assert "Fluor. +0.10" in bigger.evidence
    assert depth.verdict == balance.verdict == few.verdict == UNDECIDED
    assert "Q3 -3.9" in balance.evidence  # 0.752 against 0.791
    assert (
        "at 0.03 to 0.50 times the parameters" in balance.evidence
    )  # Stab.: 768 x 12 to 3072 x 24; Q3: 2048, 12 to 24
    assert len(TABLE7) == 10
