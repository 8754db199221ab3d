"""A score that is undefined stays undefined: in a file that is JSON, in every table, and when it is computed again."""

import json
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest

from experiments import sweep
from experiments.report.numbers import number
from experiments.table7 import audit, render
from experiments.table7.rows import Cell
from proteinlm.records import results
from proteinlm.records.results import Score
from proteinlm.training.cli import score_line
from tests.experiments.sweeps import result_of

UNDEFINED = Score("custom", "test", "spearman", nan, None, None, 12)
DEFINED = Score("custom", "valid", "spearman", 0.25, 0.125, 0.5, 12)


def test_the_file_is_json_and_comes_back(tmp_path: Path):
    replace(result_of("hidden-1024-layer-12-head-16", "stability"), scores=[UNDEFINED, DEFINED]).save(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads((tmp_path / results.RESULT).read_text(), parse_constant=refuse)
    assert [score["value"] for score in values["scores"]] == [None, 0.25]
    first, second = results.load(tmp_path / results.RESULT).scores
    assert isnan(first.value)
    assert replace(first, value=0.0) == replace(UNDEFINED, value=0.0)
    assert second == DEFINED


def test_every_table_says_so():
    assert score_line("mine", UNDEFINED) == "mine  custom  test spearman undefined  (12 proteins)"
    assert score_line("mine", replace(UNDEFINED, low=nan, high=nan)) == score_line("mine", UNDEFINED)
    assert score_line("mine", DEFINED).endswith("valid spearman 0.250 (0.125 to 0.500)  (12 proteins)")
    assert sweep._latest_score({"valid/spearman": nan}) == "valid/spearman undefined"
    assert render._short(Cell(UNDEFINED)).strip() == "undefined"
    assert render._short(Cell(None)) == "missing"
    assert number(nan, "result.json", "scores[0].value").text == "undefined"


@pytest.mark.parametrize(("again", "same"), [(nan, True), (0.0, False)])
def test_computing_it_again_must_leave_it_undefined(again: float, same: bool):
    assert audit._same((again, None, None, 12), (nan, None, None, 12)) == same
