"""Rows are compared on the same test proteins, or not at all."""

from math import isnan
from pathlib import Path

import numpy as np
import pytest

from experiments.comparison import Cell, Row, problems
from experiments.published import COLUMNS
from proteinlm import predictions
from proteinlm.intervals import Scores, paired_bootstrap
from proteinlm.results import Score


def row(directory: Path, name: str, records: range, share: float) -> Row:
    """A row whose folds are known: right for a share of the `records`."""
    right = (np.arange(len(records)) < share * len(records)).astype(float)
    sample = Scores(np.array(records), right[None], np.ones(len(records)))
    home = directory / name / "remote_homology"
    home.mkdir(parents=True)
    predictions.save(home, {("test_fold_holdout", "accuracy"): sample})
    made = Row(name, directory / name, {})
    made.cells = {column.key: Cell(None) for column in COLUMNS}
    score = Score("remote_homology", "test_fold_holdout", "accuracy", share, None, None, len(records))
    made.cells["remote_homology"] = Cell(score)
    return made


def test_the_difference_is_that_of_the_saved_predictions(tmp_path: Path):
    first, second = (row(tmp_path, name, range(50), share) for name, share in (("a", 0.8), ("b", 0.5)))
    found = first.minus(second, "remote_homology")
    samples = [
        predictions.load(each.directory / "remote_homology")["test_fold_holdout", "accuracy"]
        for each in (first, second)
    ]
    assert found == paired_bootstrap(*samples)
    assert found.value == pytest.approx(0.3)
    assert found.low > 0


def test_other_proteins_are_told_and_not_compared(tmp_path: Path):
    first, second = row(tmp_path, "a", range(50), 0.8), row(tmp_path, "b", range(40), 0.5)
    found = first.minus(second, "remote_homology")
    assert found.value == pytest.approx(0.3)
    assert isnan(found.low)
    assert isnan(found.high)
    assert "rows differ in the proteins scored for RH: 40, 50" in problems([first, second])
