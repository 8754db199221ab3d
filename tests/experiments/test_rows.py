"""Rows are compared on the same test proteins, or not at all."""

import csv
import json
import shutil
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from experiments.report import numbers, tables
from experiments.table7 import __main__ as table7
from experiments.table7 import render
from experiments.table7.published import COLUMNS, FORERUNNERS, GIVEN, TABLE7
from experiments.table7.rows import PRETRAIN, Cell, Row, choose_shown, collect, problems
from proteinlm.records import predictions, results
from proteinlm.records.bootstrap import Scores, paired_bootstrap
from proteinlm.records.results import Score
from tests.experiments.sweeps import CONTROL, made_up


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


def test_a_row_with_a_name_of_its_own_breaks_no_table(tmp_path: Path):
    made_up(tmp_path)
    ten = json.dumps(render.as_json(collect(tmp_path), []))
    for result in results.load_all(tmp_path / "hidden-768-layer-12-head-6"):
        mine = tmp_path / "mine" / result.stage
        shutil.copytree(tmp_path / result.row / result.stage, mine)
        replace(result, row="mine").save(mine)
    rows = collect(tmp_path)
    assert table7.main([str(tmp_path)]) == 0
    (own,) = (row for row in rows if row.name == "mine")
    assert (own.full.hidden_size, own.full.num_layers) == (own.built.hidden_size, own.built.num_layers)
    of_others = render.as_json([row for row in rows if row is not own], [])
    assert json.dumps(of_others) == ten


def test_of_very_many_rows_the_papers_and_the_best_of_the_others_are_shown(tmp_path: Path):
    made_up(tmp_path)
    rows = collect(tmp_path)
    column = COLUMNS[3].key
    for number in range(300):  # made of a row that is there, with one score of its own
        like = replace(rows[0], name=f"other-{number:03d}", cells=dict.fromkeys(rows[0].cells, Cell(None)))
        score = replace(Score("", "", "", 0.0, None, None, 1), value=(number * 7 % 300) / 300)
        like.cells[column] = Cell(score)
        rows.append(like)
    shown = choose_shown(rows, most=30)
    assert [row for row in rows if row in shown] == shown
    assert len(shown) == 30
    assert {row.name for row in shown} >= {*TABLE7}
    others = [row.cells[column].value or 0.0 for row in shown if row.name.startswith("other")]
    best = sorted((row.cells[column].value or 0.0 for row in rows if row.name.startswith("other")), reverse=True)
    assert sorted(others, reverse=True) == best[: len(others)]
    assert choose_shown(rows, most=1000) == rows
    (said,) = render.left_out(shown, rows)
    assert said.startswith(f"30 of {len(rows)} rows are shown")


def test_published_numbers_belong_to_the_weights_whatever_a_row_is_called(tmp_path: Path):
    made_up(tmp_path)
    (unirep,) = GIVEN
    ours = collect(tmp_path)[0]
    for name, start in {"unirep-published": "another", "mine-published": unirep}.items():
        for result in ours.results.values():
            if result.stage != PRETRAIN:
                home = tmp_path / name / result.stage
                shutil.copytree(tmp_path / ours.name / result.stage, home)
                replace(result, row=name, start=start).save(home)
    rows = {row.name: row for row in collect(tmp_path)}
    written = {line["row"]: line for line in csv.DictReader(render.as_csv([*rows.values()]).splitlines())}
    lines = {line.name: line for line in tables.lines([*rows.values()])}
    assert (lines[ours.name].publisher, lines["mine-published"].publisher) == ("paper", "TAPE")
    parameters = lines["mine-published"].parameters
    assert parameters
    assert parameters.value == rows["mine-published"].parameters
    for column, value in zip(COLUMNS, FORERUNNERS["unirep"], strict=True):
        mine, other = (numbers.published(rows[f"{name}-published"], column.key) for name in ("mine", "unirep"))
        assert other is None
        assert written["unirep-published"][f"{column.key}_published"] == ""
        assert (mine and mine.value) == value
        assert written["mine-published"][f"{column.key}_published"] == ("" if value is None else str(value))


def test_controls_come_last_in_the_order_of_their_rows(tmp_path: Path):
    made_up(tmp_path)
    largest, smallest = "scratch-hidden-3072-layer-24-head-16", "scratch-hidden-512-layer-32-head-8"
    for name in (largest, smallest):
        for result in results.load_all(tmp_path / CONTROL):
            home = tmp_path / name / result.stage
            home.mkdir(parents=True)
            replace(result, row=name).save(home)
    assert [row.name for row in collect(tmp_path)] == [*TABLE7, smallest, CONTROL, largest]


def test_parameters_are_those_that_were_counted_and_another_budget_is_told(tmp_path: Path):
    made_up(tmp_path)
    name = "hidden-1024-layer-12-head-16"
    (result,) = (r for r in results.load_all(tmp_path / name) if r.stage == PRETRAIN)
    replace(result, parameters=12_345, tokens=result.tokens + 1, steps=result.steps + 1).save(
        tmp_path / name / PRETRAIN
    )
    rows = {row.name: row for row in collect(tmp_path)}
    assert rows[name].parameters == rows[f"scratch-{name}"].parameters == 12_345
    found = problems(list(rows.values()))
    assert [problem.split(":")[0] for problem in found] == [
        "rows differ in the steps of pretrain",
        "rows differ in the tokens of pretrain",
    ]


def test_other_proteins_are_told_and_not_compared(tmp_path: Path):
    first, second = row(tmp_path, "a", range(50), 0.8), row(tmp_path, "b", range(40), 0.5)
    found = first.minus(second, "remote_homology")
    assert found.value == pytest.approx(0.3)
    assert isnan(found.low)
    assert isnan(found.high)
    assert "rows differ in the proteins scored for RH: 40, 50" in problems([first, second])
