"""A loss or gradient that is not finite changes no weight: the run stops as it was before it, or skips the step and says so,
alike on all processes; a leaping loss is noted; both with the records that were seen.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.errors import InputError
from proteinlm.models.backbone import Backbone
from proteinlm.records import results
from proteinlm.tasks.base import TaskModule
from proteinlm.training import finetuning, pretraining
from proteinlm.training.guard import Guard
from tests.runs import SMALL, composed, equal, home, in_group, weights
from tests.tasks import toys

BAD = 22  # micro-batch: the third of the sixth step
Spoil = Callable[[TaskModule, Tensor], Tensor]


def not_a_number(module: TaskModule, loss: Tensor) -> Tensor:
    return loss * float("nan")


def infinite_gradient(module: TaskModule, loss: Tensor) -> Tensor:
    parameter = next(parameter for parameter in module.parameters() if parameter.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    return loss


def fifty_times(module: TaskModule, loss: Tensor) -> Tensor:
    return loss * 50


def spoilt(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, bad: int = BAD) -> None:
    """Let one micro-batch, counted over all processes, go wrong."""
    training_step = TaskModule.training_step

    def step(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
        local = self.micro_batches // world
        number = self.trainer.global_step * self.micro_batches + batch_idx % local * world + rank
        if number != bad:
            return training_step(self, batch, batch_idx)
        before = self.step_loss
        loss = spoil(self, training_step(self, batch, batch_idx))
        self.step_loss = before + loss.detach() / self.micro_batches
        return loss

    monkeypatch.setattr(TaskModule, "training_step", step)


def planned(*micro_batches: int) -> list[int]:
    steps = list(pretraining.PretrainingData(composed(*SMALL)).schedule.steps(0, 12))
    return [record for m in micro_batches for record in steps[m // 4][m % 4].records.tolist()]


def anomalies(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "anomalies.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert pretraining.run(composed(*SMALL, f"output={output}")).skipped == 0
    return output


@pytest.mark.parametrize("every", [1, 5])  # as on a CPU, and as on a GPU
@pytest.mark.parametrize("spoil", [not_a_number, infinite_gradient])
def test_it_stops_as_it_was_before_and_goes_on_from_there(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, spoil: Spoil
):
    config = composed(*SMALL, f"output={tmp_path}", "train.checkpoint_seconds=1000")
    whole = spoil is infinite_gradient
    blamed = planned(*range(20, 24)) if whole else planned(BAD)
    what = "the gradient is" if whole else "the loss is"
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "EVERY", {"cpu": every})
        spoilt(patched, spoil)
        with pytest.raises(InputError, match=f"{what} not finite in step 6, from training records ") as error:
            pretraining.run(config)
    assert "\n" not in str(error.value)
    assert ", ".join(map(str, blamed[:10])) in str(error.value)
    assert anomalies(home(tmp_path))[0]["records"] == blamed
    latest = checkpoint.last_good(home(tmp_path) / "checkpoints", reports=False)
    assert latest is not None
    assert checkpoint.step_of(latest) == 5
    assert pretraining.run(config).skipped == 0
    assert equal(weights(tmp_path), weights(undisturbed))


@pytest.mark.parametrize("every", [1, 5])
def test_it_skips_the_step_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int):
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "EVERY", {"cpu": every})
        spoilt(patched, not_a_number)
        result = pretraining.run(composed(*SMALL, f"output={tmp_path / 'ours'}", "train.nonfinite=skip"))
    assert result.skipped == 1
    (noted,) = anomalies(home(tmp_path / "ours"))
    assert (noted["kind"], noted["step"], noted["loss"], noted["records"]) == ("skipped", 6, "nan", planned(BAD))

    update = torch.optim.AdamW.step
    done = iter(range(100))

    def all_but_the_sixth(self: torch.optim.AdamW, closure: Callable[[], Any] | None = None) -> Any:
        kept = [[parameter.detach().clone() for parameter in group["params"]] for group in self.param_groups]
        states = {p: {k: v.clone() for k, v in self.state[p].items()} for g in self.param_groups for p in g["params"]}
        loss = update(self, closure)
        if next(done) == 5:
            for group, old in zip(self.param_groups, kept, strict=True):
                for parameter, value in zip(group["params"], old, strict=True):
                    parameter.data.copy_(value)
                    self.state[parameter] = states[parameter]
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", all_but_the_sixth)
    pretraining.run(composed(*SMALL, f"output={tmp_path / 'reference'}"))
    assert equal(weights(tmp_path / "ours"), weights(tmp_path / "reference"))


def test_the_count_survives_a_stop_even_after_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = composed(*SMALL, f"output={tmp_path}", "train.nonfinite=skip")
    with monkeypatch.context() as patched:
        spoilt(patched, not_a_number)
        pretraining.run(config)
    (home(tmp_path) / "result.json").unlink()
    result = pretraining.run(config)
    assert result.skipped == 1
    assert result.seconds > 0


def test_skipping_for_ever_is_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = composed(*SMALL, f"output={tmp_path}", "train.nonfinite=skip")
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "IN_A_ROW", 3)
        original = TaskModule.training_step
        patched.setattr(
            TaskModule,
            "training_step",
            lambda self, batch, i: original(self, batch, i) * (math.nan if self.trainer.global_step >= 4 else 1),
        )
        with pytest.raises(InputError, match="in 3 steps on end, up to step 7, the last from training records"):
            pretraining.run(config)
    assert pretraining.run(config).skipped == 3


def test_a_leaping_loss_is_noted_with_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(Guard, "FEWEST", 4)
    spoilt(monkeypatch, fifty_times, bad=38)
    pretraining.run(composed(*SMALL, f"output={tmp_path}"))
    (noted,) = anomalies(home(tmp_path))
    assert (noted["kind"], noted["step"], noted["records"]) == ("spike", 10, planned(38))
    assert noted["loss"] > 3 * noted["usual"]
    assert "step 10 spike: loss " in capsys.readouterr().err


def test_no_alarm_without_a_cause(undisturbed: Path):
    assert not (home(undisturbed) / "anomalies.jsonl").exists()


DIVISIONS = [
    (2, ("strategy=ddp",), "stop"),
    (2, ("strategy=ddp_sharded",), "skip"),
    (2, ("strategy=fsdp",), "stop"),
    (4, ("strategy=fsdp_tensor", "strategy.tensor=2"), "skip"),
]


@pytest.mark.parametrize(("processes", "division", "answer"), DIVISIONS)
def test_all_processes_decide_alike(tmp_path: Path, processes: int, division: tuple[str, ...], answer: str):
    def work() -> None:
        overrides = (*SMALL, *division, f"strategy.devices={processes}", f"output={tmp_path}")
        config = composed(*overrides, f"train.nonfinite={answer}", "train.tokens=14336")  # a step more than the bad one
        rank = int(os.environ["RANK"])
        said = ""
        with pytest.MonkeyPatch.context() as patched:
            spoilt_on(patched, config.strategy.tensor_size)
            try:
                said = str(pretraining.run(config).skipped)
            except InputError as error:
                said = str(error)
        (tmp_path / f"{rank}.txt").write_text(said)

    in_group(processes, work)
    said = {(tmp_path / f"{rank}.txt").read_text() for rank in range(processes)}
    assert len(said) == 1, said
    if answer == "skip":
        assert said == {"1"}
    else:
        assert "the loss is not finite in step 6" in said.pop()
        latest = checkpoint.last_good(home(tmp_path) / "checkpoints", reports=False)
        assert latest is not None
        assert checkpoint.step_of(latest) == 5
    assert anomalies(home(tmp_path))[0]["records"] == planned(BAD)


def spoilt_on(monkeypatch: pytest.MonkeyPatch, tensor: int) -> None:
    """`spoilt` for groups in which `tensor` neighbours see the same micro-batch."""
    training_step = TaskModule.training_step

    def step(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        world = torch.distributed.get_world_size() // tensor
        rank = torch.distributed.get_rank() // tensor
        number = (
            self.trainer.global_step * self.micro_batches + batch_idx % (self.micro_batches // world) * world + rank
        )
        loss = training_step(self, batch, batch_idx)
        if number == BAD:
            self.step_loss = self.step_loss * math.nan
            return loss * math.nan
        return loss

    monkeypatch.setattr(TaskModule, "training_step", step)


@pytest.mark.parametrize("answer", ["stop", "skip"])
def test_fine_tuning_is_guarded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str):
    with toys.in_place():
        config = toys.composed("task=stability", "seeds=1", f"output={tmp_path}", f"train.nonfinite={answer}")
        with monkeypatch.context() as patched:
            spoilt(patched, not_a_number)
            if answer == "skip":
                assert finetuning.run(config).skipped == 1
                return
            with pytest.raises(InputError, match="the loss is not finite in step 6, from training records "):
                finetuning.run(config)
        latest = checkpoint.last_good(toys.home(tmp_path, "stability") / "seed-0/checkpoints", reports=False)
        assert latest is not None
        assert checkpoint.step_of(latest) == 5
        assert finetuning.run(config).skipped == 0


@pytest.mark.parametrize("every", [1, 5])
def test_statistics_of_a_batch_that_is_not_finite_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
):
    forward = Backbone.forward
    batches = iter(range(1000))

    def spoilt_once(self: Backbone, *args: Any) -> Tensor:
        hidden = forward(self, *args)
        return hidden * math.nan if self.training and next(batches) == BAD else hidden

    monkeypatch.setattr(Backbone, "forward", spoilt_once)
    monkeypatch.setattr(Guard, "EVERY", {"cpu": every})
    with toys.in_place():
        overrides = (
            "task=secondary_structure",
            "task.head=convolution",
            "task.validations=1",
            "seeds=1",
            "keep_weights=true",
        )
        result = finetuning.run(toys.composed(*overrides, f"output={tmp_path}", "train.nonfinite=skip"))
    assert result.skipped == 1
    (best,) = (toys.home(tmp_path, "secondary_structure_q3") / "seed-0/best").iterdir()
    assert int(best.name.removeprefix("step-")) > 6
    kept = checkpoint.load_weights(best).tensors
    assert any("running_mean" in name for name in kept)
    assert all(tensor.isfinite().all() for tensor in kept.values() if tensor.is_floating_point())


def test_determinism_is_a_knob_that_the_result_records(undisturbed: Path, tmp_path: Path):
    try:
        config = composed(*SMALL, f"output={tmp_path}", "train.deterministic=true")
        result = pretraining.run(config)
        assert torch.are_deterministic_algorithms_enabled()
        assert results.load(home(tmp_path) / "result.json").deterministic
        assert result.config != composed(*SMALL).digest()
        assert equal(weights(tmp_path), weights(undisturbed)), "on a CPU they are the same algorithms"
    finally:
        torch.use_deterministic_algorithms(False)
    assert not results.load(home(undisturbed) / "result.json").deterministic
