"""A table over several universes has the means of theirs, and intervals that hold the spread between them."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep as front
from experiments.report import __main__ as report
from experiments.table7 import __main__ as table7
from experiments.table7 import universes
from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import Row, collect
from proteinlm.errors import InputError
from proteinlm.records import results
from proteinlm.records.bootstrap import paired_bootstrap_over
from tests.experiments.sweeps import made_up


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("universes")
    return [made_up(home / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def merged(sweeps: list[Path]) -> Path:
    output = sweeps[0].parent / "over-three"
    assert universes.main([*map(str, sweeps), "--output", str(output)]) == 0
    return output


def test_scores_are_means_and_costs_are_sums(sweeps: list[Path], merged: Path):
    tables = [{row.name: row for row in collect(place)} for place in sweeps]
    for row in collect(merged):
        theirs = [table[row.name] for table in tables]
        for column in COLUMNS:
            values = [each.cells[column.key].value or 0.0 for each in theirs]
            assert row.cells[column.key].value == pytest.approx(np.mean(values))
        assert row.device_hours == pytest.approx(sum(each.device_hours for each in theirs))
        assert row.parameters == theirs[0].parameters


def test_intervals_are_wider_where_universes_differ(sweeps: list[Path], merged: Path):
    """Beside the mean of three that differ in nothing but their proteins, which is surer by the root of three."""
    tables = [{row.name: row for row in collect(place)} for place in sweeps]
    ratios, spread = [], []
    for row in collect(merged):
        for key in (column.key for column in COLUMNS):
            low, high = bounds(row, key)
            width = np.mean([np.ptp(bounds(table[row.name], key)) for table in tables])
            ratios.append((high - low) / (width / np.sqrt(3)))
            spread.append(np.ptp([table[row.name].cells[key].value or 0.0 for table in tables]) / width)
    assert np.corrcoef(ratios, spread)[0, 1] > 0.5
    assert np.mean(ratios) > 1


def bounds(row: Row, key: str) -> tuple[float, float]:
    score = row.cells[key].score
    assert score
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
    return score.low, score.high


def test_stars_and_differences_are_over_all_universes(sweeps: list[Path], merged: Path):
    rows = {row.name: row for row in collect(merged)}
    first, second = (rows[name] for name in list(TABLE7)[:2])
    pairs = []
    for place in sweeps:
        theirs = {row.name: row for row in collect(place)}
        pairs += zip(theirs[first.name].samples("q3"), theirs[second.name].samples("q3"), strict=True)
    assert first.minus(second, "q3") == paired_bootstrap_over(pairs)


def test_page_table_and_audit_are_made_of_it(merged: Path, capsys: pytest.CaptureFixture[str]):
    assert "over 3 universes" in json.loads((merged / "table7.json").read_text())["caption"]
    assert table7.main([str(merged), "--verify"]) == 1  # these records do not name their predictions
    assert capsys.readouterr().out.count("computed again") == 3
    assert report.main([str(merged)]) == 0
    assert "over 3 universes" in (merged / "report.html").read_text()


def test_sweeps_that_do_not_fit_together_are_refused(sweeps: list[Path], tmp_path: Path):
    other = made_up(tmp_path / "other", 5)
    (result,) = results.load_all(other / next(iter(TABLE7)) / "contact")
    (other / result.row / result.stage / results.RESULT).unlink()
    with pytest.raises(InputError, match="has no result of contact"):
        universes.merge([sweeps[0], other], tmp_path / "out")
    with pytest.raises(InputError, match="two or more"):
        universes.main([str(sweeps[0]), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="of the synthetic data"):
        front.main(["--data", str(tmp_path), "--universes", "2"])
    with pytest.raises(InputError, match="at least 1"):
        front.main(["--universes", "0"])


def test_one_command_runs_each_universe_and_the_table_over_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, list[str]]] = []
    over: list[list[str]] = []
    monkeypatch.setattr(front, "sweep", lambda options, group, words: asked.append((group, words)))
    monkeypatch.setattr(front.over_universes, "main", lambda arguments: len(over.append(arguments) or []))
    group = "table7-laptop-synthetic"
    assert front.main(["--output", str(tmp_path), "--universes", "2", "seeds=3"]) == 0
    assert asked == [(group, ["seeds=3"]), (f"{group}-universe-1", ["data.seed=1", "seed=1", "seeds=3"])]
    homes = [str(tmp_path / name) for name, _ in asked]
    assert over == [[*homes, "--output", f"{homes[0]}-2-universes"]]
    assert front.main(["--output", str(tmp_path), "--universe", "2"]) == 0
    assert asked[2:] == [(f"{group}-universe-2", ["data.seed=2", "seed=2"])]
    assert len(over) == 1
