"""The ten-row sweep ends in the complete table, and ends in the same one after being killed and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from experiments import table7
from experiments.published import TABLE7
from experiments.sweep import largest_first
from proteinlm import results
from proteinlm.files import owned
from tests.runs import ROOT

GROUP = "table7-smoke-synthetic"
TIMES = {"seconds"}


def sweep(output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.sweep", "--profile", "smoke", "--output", str(output), "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "train.checkpoint_seconds=0"], cwd=ROOT, **pipes)


def table(output: Path) -> list[dict[str, object]]:
    rows = json.loads((output / GROUP / "table7.json").read_text())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def finished(output: Path) -> int:
    return len(list((output / GROUP).rglob(results.RESULT)))


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sweep")
    process = sweep(output)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert errors.count("perplexity") == 2 * 10, "one line per finished stage"
    for row in TABLE7:
        assert row in printed
    return output


def test_the_table_is_complete(undisturbed: Path):
    rows = table(undisturbed)
    assert [row["row"] for row in rows] == list(TABLE7)
    for row in rows:
        for split in ("valid", "holdout"):
            low, value, high = (row[f"perplexity_{split}{end}"] for end in ("_low", "", "_high"))
            assert 1 < low < value < high < 200
    assert (undisturbed / GROUP / "table7.md").read_text().count("| hidden-") == 10
    assert (undisturbed / GROUP / "table7.csv").read_text().count("\n") == 11


def test_killed_and_started_again(undisturbed: Path, tmp_path: Path):
    moments = random.Random(0)
    for wanted in (0, 2, 4, 6, 8):
        process = sweep(tmp_path)
        running: list[psutil.Process] = []
        while process.poll() is None and not (finished(tmp_path) >= wanted and running):
            time.sleep(0.05)
            running = descendants(process)
        time.sleep(moments.random() * 6)
        running = descendants(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _, alive = psutil.wait_procs(running, timeout=20)
        assert not alive, "what the sweep had started goes with it"
    process = sweep(tmp_path)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "rows are already there" in errors
    assert table(tmp_path) == table(undisturbed)


def test_a_second_sweep_in_the_same_directory_stops(undisturbed: Path):
    with owned(undisturbed / GROUP, "a sweep"):
        process = sweep(undisturbed)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "a sweep is already running there" in errors


def test_a_missing_row_is_named(undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / GROUP).mkdir()
    for row in list(TABLE7)[1:]:
        os.symlink(undisturbed / GROUP / row, tmp_path / GROUP / row)
    arguments = [str(tmp_path / GROUP)]
    assert table7.main(arguments) == 1
    assert "row hidden-512-layer-32-head-8 has no result" in capsys.readouterr().err
    assert not (tmp_path / GROUP / "table7.json").exists()
    assert table7.main([*arguments, "--partial"]) == 0


def test_rows_of_other_code_or_data_are_not_mixed(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for number, row in enumerate(TABLE7):
        result = results.load(undisturbed / GROUP / row / "pretrain" / results.RESULT)
        (tmp_path / row).mkdir()
        changed = {**vars(result), "data": "other"} if number == 3 else vars(result)
        results.Result(**changed).save(tmp_path / row)
    assert table7.main([str(tmp_path)]) == 1
    assert "rows differ in their data fingerprint" in capsys.readouterr().err


def test_the_largest_rows_start_first():
    order = largest_first(list(TABLE7))
    assert order[0] == "hidden-3072-layer-24-head-16"
    assert order[-1] == "hidden-768-layer-12-head-6"
    assert sorted(order) == sorted(TABLE7)
