"""A run that was killed anywhere and started again ends in the very weights, scores and metrics of an undisturbed one."""

import csv
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training import pretraining
from tests.runs import SMALL, Command, composed, equal, finish, home, start, weights


class Killed(BaseException):
    """Stands in for a signal: nothing between it and the process catches it."""


def metrics(output: Path) -> list[list[str]]:
    """Every metric but the speed and the time."""
    with (home(output) / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if "per_second" not in row[1] and "hours" not in row[1]]


def scores(output: Path) -> object:
    return json.loads((home(output) / "result.json").read_text())["scores"]


def assert_same(ours: Path, theirs: Path) -> None:
    assert equal(weights(ours), weights(theirs))
    assert scores(ours) == scores(theirs)
    assert metrics(ours) == metrics(theirs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    finish(start(output))
    return output


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_micro_batch(undisturbed: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch):
    config = composed(*SMALL, f"output={tmp_path}", f"train.workers={workers}")
    plan = pretraining.PretrainingData(config).schedule
    first_of_second_epoch = next(m.number for step in plan.steps(0, 12) for m in step if m.epoch == 1)
    # the first micro-batch of a step, inside a step, after the first epoch, and the very last
    moments = [0, 4, 7, first_of_second_epoch, first_of_second_epoch + 1, 30, 47]
    training_step = MaskedLanguageModel.training_step

    def dying_at(moment: int) -> Callable[..., Tensor]:
        def step(self: MaskedLanguageModel, batch: MaskedBatch, batch_idx: int) -> Tensor:
            if self.trainer.global_step * 4 + batch_idx % 4 == moment:
                raise Killed
            return training_step(self, batch, batch_idx)

        return step

    for moment in sorted(moments):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(MaskedLanguageModel, "training_step", dying_at(moment))
            pretraining.run(config)
    pretraining.run(config)
    assert len(json.loads((home(tmp_path) / "stamp.json").read_text())) == len(moments) + 1
    assert_same(tmp_path, undisturbed)


def test_killed_for_real(undisturbed: Path, tmp_path: Path):
    moments = random.Random(0)
    for steps in (1, 5, 9):
        kill(start(tmp_path, "train.workers=2"), tmp_path, steps, moments.random() * 0.1)
    finish(start(tmp_path))
    assert_same(tmp_path, undisturbed)


def kill(process: Command, output: Path, steps: int, delay: float) -> None:
    """SIGKILL once so many steps are on the disk, and a moment later: in the midst of a step or of a checkpoint."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if max((int(file.stem[5:]) for file in (home(output) / "checkpoints").glob("step-*")), default=0) >= steps:
            time.sleep(delay)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_finished_run_is_not_repeated(undisturbed: Path, capsys: pytest.CaptureFixture[str]):
    before = (home(undisturbed) / "result.json").stat().st_mtime_ns
    result = pretraining.run(composed(*SMALL, f"output={undisturbed}"))
    assert (home(undisturbed) / "result.json").stat().st_mtime_ns == before
    assert [score.value for score in result.scores] == [score["value"] for score in scores(undisturbed)]


def test_killed_between_the_last_checkpoint_and_the_result(undisturbed: Path):
    expected, file = scores(undisturbed), home(undisturbed) / "result.json"
    file.unlink()
    pretraining.run(composed(*SMALL, f"output={undisturbed}"))
    assert scores(undisturbed) == expected
