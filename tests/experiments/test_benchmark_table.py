"""Benchmarks of several models are one table: printed beside a sweep's, on its page, and in wandb, each as recorded."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from experiments import dashboard
from experiments.benchmark import records, scores, table
from experiments.report import __main__ as report
from experiments.table7 import __main__ as table7
from proteinlm import checkpoint
from proteinlm.errors import InputError
from proteinlm.models import registry
from proteinlm.models.seeding import reseed
from proteinlm.records.run_directory import BENCHMARK
from tests.experiments.benchmarks import SHAPE, add_split, ask, flip
from tests.experiments.sweeps import made_up
from tests.experiments.test_report import Numbers, at
from tests.training import wandb_files

MODELS = ("first", "second")


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on two splits of a small benchmark."""
    root = tmp_path_factory.mktemp("benchmarks")
    flip(root)
    add_split(root, "half", every=2)
    for seed, name in enumerate(MODELS):
        reseed(seed, torch.device("cpu"))
        modules = {"backbone": registry.build(SHAPE), "head": registry.language_model_head(SHAPE)}
        checkpoint.save_weights(root / name, modules, SHAPE)
        words = [f"root={root}", f"model.path={root / name}", f"cache={root}", f"output={root}", "group=out"]
        ask("flip/small", *words, "resamples=40", *(["split=drawn"] if seed else []))
    return root / "out"


def test_models_of_one_split_are_compared_with_each_other(group: Path):
    drawn, half = table.columns(group)
    assert (drawn.title, drawn.note) == ("flip/small drawn", "spearman, 48 + 12 to 30")
    assert (half.title, list(half.cells)[:1]) == ("flip/small half", ["first"])
    assert list(drawn.cells)[:2] == [*MODELS]
    for name, cell in drawn.cells.items():
        assert cell.scored == cell.record.scores[cell.place]
        assert (cell.scored.contestant, cell.scored.metric) == (name, "spearman")
    saved = [records.load_predictions(record) for record in records.load_all(group) if record.split == "drawn"]
    labels, merged = saved[0][0], {name: array for each in saved if each for name, array in each[1].items()}
    expected = {line.name for line in scores.compare(labels, merged, 40) if line.ties}
    assert {name for name, cell in drawn.cells.items() if cell.tie} == expected
    assert all(
        cell.tie == (name in {each.contestant for each in half.first.scores if each.tie})
        for name, cell in half.cells.items()
    )


def test_the_table_is_printed_and_written(group: Path, capsys: pytest.CaptureFixture[str]):
    assert table.main([str(group)]) == 0
    printed = capsys.readouterr().out
    assert (group / "benchmarks.md").read_text() in printed
    line = next(line for line in printed.splitlines() if line.startswith("| second"))
    assert line.endswith("|  |")  # of the split on which it was not tested
    with (group / "benchmarks.csv").open() as lines:
        rows = [*csv.DictReader(lines)]
    assert len(rows) == sum(len(column.cells) for column in table.columns(group))
    first = next(row for row in rows if (row["contestant"], row["split"]) == ("first", "drawn"))
    assert float(first["value"]) == records.load(group / "first" / "flip_small" / "drawn" / BENCHMARK).of("first").value
    with pytest.raises(InputError, match="below it"):
        table.main([str(group / "first" / "nothing")])


def test_the_page_shows_them_with_their_records(group: Path):
    assert report.main([str(group)]) == 0
    found = Numbers((group / "report.html").read_text()).found
    assert found
    for attributes, text in found:
        value = at(json.loads((group / attributes["data-file"]).read_text()), attributes["data-field"])
        assert float(attributes["value"]) == value
        assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.0051)


def test_they_stand_beside_a_sweep(group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sweep = made_up(tmp_path / "sweep")
    shutil.copytree(group / "first" / "flip_small", sweep / "hidden-512-layer-32-head-8" / "flip_small")
    assert table7.main([str(sweep)]) == 0
    assert "flip/small drawn (spearman" in capsys.readouterr().out
    assert report.main([str(sweep)]) == 0
    page = (sweep / "report.html").read_text()
    assert '<section id="benchmarks"' in page
    assert '<section id="claims"' in page


def test_wandb_has_a_run_for_each_model_and_the_table(group: Path):
    assert dashboard.main([str(group)]) == 0
    found = {written.run.display_name: written for written in wandb_files.runs(group / "wandb")}
    assert {(name, one.run.job_type) for name, one in found.items()} == {
        ("benchmarks", "table"),
        *((name, "benchmark") for name in MODELS),
    }
    drawn, half = table.columns(group)
    for name in MODELS:
        assert found[name].summary["test/flip/small/drawn/spearman"] == pytest.approx(drawn.cells[name].scored.value)
        assert ("test/flip/small/half/spearman" in found[name].summary) == (name in half.cells)
    made = json.loads((group / dashboard.SPECIFICATION).read_text())
    sections = made["spec"]["section"]["panelBankConfig"]["sections"]
    assert "Benchmarks" in [section["name"] for section in sections]
