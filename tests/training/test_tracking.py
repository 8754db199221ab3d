"""wandb's files hold what a run was and did, by group, stage and tokens; and nothing that wandb does stops a run."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import wandb

from proteinlm.config import TrackingConfig
from proteinlm.records import results
from proteinlm.tasks.language_model import LanguageModel
from proteinlm.training import background, finetuning, pretraining, tracking
from proteinlm.training.background import Background
from proteinlm.training.tracking import HOURS, MetricsFile, Tracker
from tests.runs import ROOT, SMALL, composed
from tests.tasks import toys
from tests.training import wandb_files

SLOW = 0.2
"""Seconds."""
SHORT = (*SMALL, "tracking=wandb", "group=sweep", "train.tokens=8192")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracking, "PAUSE", 0.0)
        pretraining.run(composed(*SHORT, f"output={output}"))
    background.finish()
    return output / "sweep/tiny/pretrain"


def test_a_pretraining_is_a_run_of_its_group(pretrained: Path):
    (written,) = wandb_files.runs(pretrained)
    assert (written.run.run_group, written.run.job_type, written.run.display_name) == ("sweep", "pretrain", "tiny")
    assert written.run.project == "proteinlm"
    assert written.config["optim"]["learning_rate"] == 1e-2
    assert written.config["model"]["hidden_size"] == 32
    assert written.ended


def test_its_history_is_that_of_the_metrics_file(pretrained: Path):
    (written,) = wandb_files.runs(pretrained)
    lines = (pretrained / "metrics.csv").read_text().splitlines()[1:]
    told = {(step["_step"], name): value for step in written.history for name, value in step.items()}
    for step, name, value in (line.split(",") for line in lines):
        known = name if name.split("/")[0] in ("train", "valid", "progress") else f"test/{name}"
        assert told[int(step), known] == float(value)
    assert written.history[-1]["progress/tokens"] == results.load(pretrained / results.RESULT).tokens


def test_the_speed_is_of_training_and_the_hours_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    end = LanguageModel.on_validation_epoch_end

    def slowly(task: LanguageModel) -> None:
        time.sleep(SLOW)
        end(task)

    monkeypatch.setattr(LanguageModel, "on_validation_epoch_end", slowly)
    result = pretraining.run(composed(*SMALL, "train.validations=3", f"output={tmp_path}"))
    rows = (line.split(",") for line in next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[1:])
    last = {name: float(value) for step, name, value in rows if int(step) == result.steps}
    training = result.residues / last["progress/residues_per_second"]
    assert last[HOURS] * 3600 - training >= 2 * SLOW  # the third validation follows the last step


def test_of_fast_steps_one_a_second_is_told_and_every_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "PAUSE", 1000.0)
    pretraining.run(composed(*SHORT, f"output={tmp_path}"))
    background.finish()
    (written,) = wandb_files.runs(tmp_path)
    lines = [line.split(",") for line in next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[1:]]
    for name, every in (("train/loss", False), ("valid/loss", True)):
        steps = [int(step) for step, known, _ in lines if known == name]
        assert len(steps) > 1
        assert [told["_step"] for told in written.history if name in told] == (steps if every else steps[:1])


@pytest.mark.parametrize(("backend", "rank", "imported"), [("wandb", "0", 1), ("wandb", "1", 0), ("csv", "0", 0)])
def test_it_is_imported_early_by_the_process_that_tells_it(
    backend: str, rank: str, imported: int, monkeypatch: pytest.MonkeyPatch
):
    found: list[str] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(tracking, "import_module", found.append)
    tracking.import_early(TrackingConfig(backend=backend))
    assert len(found) == imported


def test_a_history_is_whole_while_it_is_cut_to_where_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "metrics.csv"
    history = MetricsFile(file, 0)
    for step in range(1, 5):
        history.log({"train/loss": 1 / step}, step)
    before = file.read_text()

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            MetricsFile(file, 2)
    assert file.read_text() == before
    MetricsFile(file, 2).log({"train/loss": 0.5}, 3)
    assert file.read_text().splitlines() == [*before.splitlines()[:3], "3,train/loss,0.5"]


def test_curves_are_drawn_over_tokens(pretrained: Path):
    (written,) = wandb_files.runs(pretrained)
    steps = {name: step for name, step in written.metrics.items() if "*" in name}
    assert steps == {f"{name}/*": "progress/tokens" for name in ("train", "valid", "test", "progress")}


def test_its_weights_are_an_artifact_whose_bytes_stay_where_they_are(pretrained: Path):
    (written,) = wandb_files.runs(pretrained)
    (artifact,) = written.artifacts
    assert artifact.type == "model"
    references = {entry.path: entry.ref for entry in artifact.manifest.contents}
    assert references["model.safetensors"] == (pretrained / "model/model.safetensors").as_uri()


def test_each_seed_of_a_fine_tuning_is_a_run_with_its_own_test_scores(tmp_path: Path):
    with toys.in_place():
        config = toys.composed("task=contact", "tracking=wandb", "task.tokens=2048", f"output={tmp_path}")
        result = finetuning.run(config)
    background.finish()
    found = wandb_files.runs(tmp_path)
    assert [(one.run.job_type, one.run.display_name) for one in found] == [
        ("contact", "scratch seed 0"),
        ("contact", "scratch seed 1"),
    ]
    assert len({one.run.run_id for one in found}) == 2
    for score in result.scores:
        name = f"test/contact/{score.split}/{score.metric}"
        assert sum(one.summary[name] for one in found) / 2 == pytest.approx(score.value, nan_ok=True)
    drawn = [one.history[-1].get("test/contact_map/path") for one in found]
    assert Path(drawn[0]).suffix == ".png"
    assert list(tmp_path.rglob(Path(drawn[0]).name))
    assert drawn[1] is None


def test_an_attempt_that_goes_on_has_the_name_of_the_first(pretrained: Path, tmp_path: Path):
    config = composed(*SHORT, f"output={tmp_path}")
    for _ in range(2):
        directory = tmp_path / "sweep/tiny/pretrain"
        directory.mkdir(parents=True, exist_ok=True)
        Tracker(config, "pretrain", directory, 0).finish()
        background.finish()
    first, second = ({one.run.run_id, one.run.run_group} for one in wandb_files.runs(tmp_path))
    assert first == second
    assert first.isdisjoint({wandb_files.runs(pretrained)[0].run.run_id})


@pytest.mark.parametrize("broken", ["hangs", "fails", "exits"])
def test_a_wandb_that_does_not_work_stops_nothing(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def init(**settings: object) -> None:
        if broken == "hangs":
            threading.Event().wait()
        raise {"fails": ConnectionError("no route to host"), "exits": SystemExit(1)}[broken]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(background, "PATIENCE", 0.2)
    result = pretraining.run(composed(*SHORT, f"output={tmp_path}"))
    background.finish()
    assert results.load(tmp_path / "sweep/tiny/pretrain" / results.RESULT) == result
    told = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: wandb (pretrain of tiny)")
    ]
    assert len(told) == 1
    assert {"hangs": "did not answer", "fails": "no route to host", "exits": "1"}[broken] in told[0]


def test_a_process_ends_though_wandb_hangs():
    code = (
        "import threading\n"
        "from proteinlm.training import background\n"
        "background.PATIENCE = 0.2\n"
        "hanging = background.Background('wandb')\n"
        "hanging.call(threading.Event().wait)\n"
        "[hanging.call(print) for _ in range(2 * background.WAITING)]\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "warning: wandb does not keep up; it misses some of this run",
        "warning: wandb did not answer; the run is complete without it",
    ]


def test_a_process_ends_though_the_server_never_answers(tmp_path: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from proteinlm.training import background\n"
        "from proteinlm.training.tracking import Tracker\n"
        "from tests.runs import composed\n"
        "background.PATIENCE = 5.0\n"
        "tracker = Tracker(composed('tracking=wandb'), 'pretrain', Path(sys.argv[1]), 0)\n"
        "tracker.log({'train/loss': 1.0}, 1)\n"
        "tracker.finish()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        online = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": 40 * "0"}
        command = [sys.executable, "-c", code, str(tmp_path)]
        ended = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **online}, capture_output=True, text=True, timeout=240
        )
    assert ended.returncode == 0, ended.stderr
    assert "wandb (pretrain of tiny) did not answer; the run is complete without it" in ended.stderr


def test_calls_are_made_in_order_and_all_of_them():
    made: list[int] = []
    calls = Background("a list")
    for number in range(1000):
        calls.call(lambda number=number: made.append(number))
    background.finish()
    assert made == list(range(1000))


@pytest.mark.parametrize(
    ("backend", "files"), [("csv", {"metrics.csv"}), ("none", set()), ("wandb", {"metrics.csv", "wandb"})]
)
def test_tracking_is_what_was_asked_for(backend: str, files: set[str], tmp_path: Path):
    overrides = [each for each in SHORT if not each.startswith("tracking")]
    Tracker(composed(*overrides, f"tracking={backend}"), "pretrain", tmp_path, 0).finish()
    background.finish()
    assert {file.name for file in tmp_path.iterdir()} == files
