"""The statistics behind the reading of the table are those of independent computations, and verdicts follow from them."""

import numpy as np
import pytest
from scipy import stats

from experiments.table7 import claims
from experiments.table7.claims import CONTRADICTED, SUPPORTED, UNDECIDED, Points, depth_minus_width, rank_correlation
from experiments.table7.published import COLUMNS, TABLE7
from proteinlm.config import ModelConfig


def test_rank_correlation_is_scipys_and_its_interval_covers():
    generator = np.random.default_rng(0)
    covered = 0
    truth = 6 / np.pi * np.arcsin(0.7 / 2)  # Spearman's of two normals whose correlation is 0.7
    for _ in range(1000):
        first = generator.normal(size=10)
        second = 0.7 * first + np.sqrt(1 - 0.7**2) * generator.normal(size=10)
        found = rank_correlation(first.tolist(), second.tolist())
        assert found.value == pytest.approx(stats.spearmanr(first, second)[0])
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 1000 <= 0.99


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
    assert len(TABLE7) == 10
