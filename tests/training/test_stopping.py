"""A signal at any moment of either stage ends it with 128 + signal and one line; started again, it ends as undisturbed."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proteinlm import checkpoint
from proteinlm.launch import signals
from proteinlm.launch.signals import SIGNALS, Stopped
from proteinlm.records import results
from proteinlm.tasks.base import TaskModule
from proteinlm.tasks.labelled import LabelledTask
from proteinlm.tasks.language_model import LanguageModel
from proteinlm.training import finetuning, pretraining
from proteinlm.training.checkpoints import Checkpoints
from tests.runs import SMALL, composed, equal, home, in_group, weights
from tests.tasks import toys

SLOW_CHECKPOINTS = "train.checkpoint_seconds=600"  # what is there after a stop was saved because of it
Run = Callable[[Path], object]


def pretrain(output: Path, *overrides: str) -> object:
    return pretraining.run(composed(*SMALL, "train.validations=3", SLOW_CHECKPOINTS, f"output={output}", *overrides))


def finetune(output: Path) -> object:
    overrides = ("task=stability", "task.tokens=6144", "task.validations=2", "keep_weights=true", SLOW_CHECKPOINTS)
    return finetuning.run(toys.composed(*overrides, f"output={output}"))


STAGES: dict[str, Run] = {"pretrain": pretrain, "finetune": finetune}


def answers(number: int, run: Callable[[], object]) -> Stopped:
    """The end of a `run` that sends itself signal `number`."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    defaults = zip(SIGNALS, (signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL), strict=True)
    for each, default in defaults:
        signal.signal(each, default)
    signals.install()
    try:
        with pytest.raises(Stopped) as stopped:
            run()
    finally:
        signals._requested = None
        for each, handler in before.items():
            signal.signal(each, handler)
    assert stopped.value.code == 128 + number
    assert str(stopped.value).endswith("; the same command goes on")
    assert "\n" not in str(stopped.value)
    return stopped.value


class Sender:
    """Calls a function as before, and sends this process a signal at the first call for which `due` holds."""

    def __init__(
        self, patched: pytest.MonkeyPatch, owner: Any, name: str, number: int, due: Callable[..., bool]
    ) -> None:
        call, self.sent = getattr(owner, name), False

        def calling(*arguments: Any, **named: Any) -> Any:
            if not self.sent and due(*arguments):
                self.sent = True
                os.kill(os.getpid(), number)
            return call(*arguments, **named)

        patched.setattr(owner, name, calling)


def always(*arguments: Any) -> bool:
    return True


def training(module: TaskModule, *arguments: Any) -> bool:
    return module.trainer.global_step % 3 == 1  # also right after the start of an attempt that goes on from there


def validating(module: TaskModule, *arguments: Any) -> bool:
    return module.trainer.state.fn == "fit"


def scoring(module: TaskModule, *arguments: Any) -> bool:
    return module.trainer.state.fn == "validate"


MOMENTS: dict[tuple[str, str], tuple[Any, str, Callable[..., bool], str]] = {
    ("pretrain", "start-up"): (checkpoint, "last_good", always, "before the first step"),
    ("pretrain", "a step"): (TaskModule, "training_step", training, "after step"),
    ("pretrain", "a validation"): (LanguageModel, "validation_step", validating, "after step"),
    ("pretrain", "scoring"): (LanguageModel, "validation_step", scoring, "while scoring"),
    ("pretrain", "the last lines"): (pretraining.predictions, "save", always, "after the last step"),
    ("finetune", "start-up"): (checkpoint, "last_good", always, "before the first step"),
    ("finetune", "a step"): (TaskModule, "training_step", training, "after step"),
    ("finetune", "a validation"): (LabelledTask, "validation_step", validating, "after step"),
    ("finetune", "between seeds"): (finetuning, "discard_all_but", always, ""),
    ("finetune", "scoring"): (LabelledTask, "validation_step", scoring, "while scoring"),
    ("finetune", "the last lines"): (finetuning.predictions, "save", always, "after the last step"),
}


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    outputs = {stage: tmp_path_factory.mktemp(stage) for stage in STAGES}
    for stage, run in STAGES.items():
        run(outputs[stage])
    return outputs


def finished(stage: str, output: Path) -> tuple[dict[str, bytes], object]:
    """The weights and the scores that a stage has left behind."""
    (file,) = output.rglob("result.json")
    found = sorted(output.rglob("model.safetensors"))
    return {str(each.relative_to(output)): each.read_bytes() for each in found}, results.load(file).scores


@pytest.mark.parametrize(("stage", "moment"), MOMENTS)
def test_every_signal_at_every_moment(
    stage: str, moment: str, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    owner, name, due, where = MOMENTS[stage, moment]
    run = partial(STAGES[stage], tmp_path)
    if (stage, moment) == ("pretrain", "scoring"):  # apart from training only if the result was not written after it
        run()
    for number in SIGNALS:  # one after another, at the same moment of what is left of the run
        for file in tmp_path.rglob("result.json"):
            file.unlink()
        with monkeypatch.context() as patched:
            sender = Sender(patched, owner, name, number, due)
            stopped = answers(number, run)
            assert sender.sent
        assert where in stopped.message
        if moment == "a step":
            step = int(stopped.message.split("step ")[1].split(";")[0])
            assert checkpoint.step_of(sorted(tmp_path.rglob("step-*.ckpt"))[-1]) == step, "saved at the end of the step"
    run()
    assert finished(stage, tmp_path) == finished(stage, undisturbed[stage])


def test_a_signal_for_the_whole_process_group_leaves_the_workers_at_work(tmp_path: Path):
    def member() -> None:
        os.setpgid(0, 0)
        training_step, sent = TaskModule.training_step, []

        def step(self: TaskModule, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == 3 and not sent:
                command = ["kill", "-TERM", "--", f"-{os.getpgid(0)}"]  # by another process, as `timeout` does it
                sent.append(subprocess.run(command, check=True, start_new_session=True))
            return training_step(self, batch, batch_idx)

        TaskModule.training_step = step
        stopped = answers(signal.SIGTERM, partial(pretrain, tmp_path, "train.workers=2"))
        assert stopped.message == "stopped after step 4; the same command goes on"

    in_group(1, member)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("moment", ["a step", "scoring"])
def test_one_process_of_a_group_gets_the_signal_and_all_stop_alike(strategy: str, moment: str, tmp_path: Path):
    group = (f"strategy={strategy}", "strategy.devices=2", "train.tokens=8192")  # 4 steps
    steps = {True: "after step 3", False: "while scoring"}[moment == "a step"]
    in_group(2, partial(pretrain, tmp_path / "undisturbed", *group))
    if moment == "scoring":  # all training is done, and the result is missing
        in_group(2, partial(pretrain, tmp_path / "stopped", *group))
        (home(tmp_path / "stopped") / "result.json").unlink()

    def member() -> None:
        training_step, validation_step = TaskModule.training_step, LanguageModel.validation_step
        second = os.environ["RANK"] == "1"

        def train(self: TaskModule, batch: Any, batch_idx: int) -> Any:
            if second and self.trainer.global_step == 2 and not signals.stop_requested():
                os.kill(os.getpid(), signal.SIGHUP)
            return training_step(self, batch, batch_idx)

        def validate(self: LanguageModel, *arguments: Any) -> Any:
            if second and self.trainer.state.fn == "validate" and not signals.stop_requested():
                os.kill(os.getpid(), signal.SIGHUP)
            return validation_step(self, *arguments)

        TaskModule.training_step, LanguageModel.validation_step = train, validate
        stopped = answers(signal.SIGHUP, partial(pretrain, tmp_path / "stopped", *group))
        assert stopped.message == f"stopped {steps}; the same command goes on"

    in_group(2, member)
    in_group(2, partial(pretrain, tmp_path / "stopped", *group))
    assert equal(weights(tmp_path / "stopped"), weights(tmp_path / "undisturbed"))


def test_steps_of_a_group_are_not_held_up_by_signals_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lightning's handler would send from inside itself, and its processes would meet before every micro-batch."""
    seen = []
    save = Checkpoints.on_train_start

    def look(self: Checkpoints, trainer: Any, module: Any) -> None:
        seen.append((signal.getsignal(signal.SIGTERM), trainer.received_sigterm))
        save(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "on_train_start", look)
    before = signal.getsignal(signal.SIGTERM)
    pretrain(tmp_path, "train.tokens=4096")
    assert seen == [(before, False)]
