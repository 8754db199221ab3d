"""Fine-tuning selects by the validation split alone, resumes exactly, and scores every test record once."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.config import EvaluateConfig, PretrainedConfig
from proteinlm.data import synthetic
from proteinlm.errors import InputError
from proteinlm.records import predictions, results
from proteinlm.records.bootstrap import Predictions, Sample, Scores, bootstrap
from proteinlm.tasks import TASKS, downstream
from proteinlm.tasks.base import TaskModule
from proteinlm.tasks.labelled import LabelledTask
from proteinlm.training import finetuning, report
from tests.runs import ROOT, Command, equal, in_group
from tests.tasks import toys
from tests.tasks.toys import composed, home


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stability, two seeds, weights kept."""
    output = tmp_path_factory.mktemp("undisturbed")
    finetuning.run(composed("task=stability", f"output={output}", "keep_weights=true"))
    return output


class Killed(BaseException):
    """Stands in for a signal: nothing between it and the process catches it."""


def weights(output: Path, seed: int) -> dict[str, Tensor]:
    (best,) = (home(output, "stability") / f"seed-{seed}/best").glob(f"step-{selected(output, seed)['step']:09d}")
    return checkpoint.load_weights(best).tensors


def selected(output: Path, seed: int, label: str = "stability") -> dict[str, Any]:
    return json.loads((home(output, label) / f"seed-{seed}/selected.json").read_text())


def scores(output: Path, label: str = "stability") -> dict[tuple[str, str], results.Score]:
    return {(s.split, s.metric): s for s in results.load(home(output, label) / "result.json").scores}


def values(sample: Sample) -> np.ndarray:
    """What each seed said of each record."""
    if isinstance(sample, Predictions):
        return sample.prediction
    assert isinstance(sample, Scores)
    return sample.value


def assert_same(ours: Path, theirs: Path) -> None:
    assert scores(ours) == scores(theirs)
    for seed in (0, 1):
        assert equal(weights(ours, seed), weights(theirs, seed))
        timeless = [{k: v for k, v in selected(output, seed).items() if k != "seconds"} for output in (ours, theirs)]
        assert timeless[0] == timeless[1]
    found, wanted = (predictions.load(home(output, "stability")) for output in (ours, theirs))
    assert all(np.array_equal(values(found[name]), values(wanted[name])) for name in wanted)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns(task: str, tmp_path: Path):
    longer = ("task.tokens=24576", "task.learning_rate=5e-3", "seeds=1", "model.dropout=0")
    untrained = (f"task={task}", "task.tokens=1024", "task.learning_rate=1e-9", "task.validations=1", "seeds=1")
    before = finetuning.run(composed(*untrained, f"output={tmp_path / 'untrained'}"))
    after = finetuning.run(composed(f"task={task}", *longer, f"output={tmp_path / 'trained'}"))
    metric = downstream(task).score
    for split in list(downstream(task).splits)[1:]:
        learnt, untaught = (result.score(result.stage, split, metric) for result in (after, before))
        assert learnt is not None
        assert untaught is not None
        assert learnt.low is not None
        assert learnt.low > untaught.value + 0.1, (split, learnt, untaught)
        assert learnt.n == (toys.COUNTS["valid"] if split == "valid" else toys.TESTED)


def test_killed_anywhere_and_started_again(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = composed("task=stability", f"output={tmp_path}", "keep_weights=true")
    # per seed 12 steps of four micro-batches: at the start of a step, inside, next to validations, and in the other seed
    moments = [(0, 0), (0, 6), (0, 12), (0, 13), (0, 31), (0, 47), (1, 0), (1, 22), (1, 47)]
    training_step = TaskModule.training_step

    def step_or_die(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        begun = (home(tmp_path, "stability") / "seed-1").exists()
        if (int(begun), self.trainer.global_step * 4 + batch_idx % 4) == moment:
            raise Killed
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(TaskModule, "training_step", step_or_die)
    for coming in moments:
        moment = coming
        with pytest.raises(Killed):
            finetuning.run(config)
    moment = None
    for place in ("samples", "_result"):
        with monkeypatch.context() as patched:
            patched.setattr(finetuning.Finetuning, place, raising(Killed))
            with pytest.raises(Killed):
                finetuning.run(config)
    finetuning.run(config)
    assert_same(tmp_path, undisturbed)


def raising(error: type[BaseException]) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_killed_between_the_last_checkpoint_and_the_selection(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = composed("task=stability", f"output={tmp_path}", "keep_weights=true")
    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "write_text", raising(Killed))
        with pytest.raises(Killed):
            finetuning.run(config)
    assert list((home(tmp_path, "stability") / "seed-0/checkpoints").glob("step-*"))
    finetuning.run(config)
    assert_same(tmp_path, undisturbed)


def test_a_finished_stage_is_not_repeated(undisturbed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finetuning.Finetuning, "run", raising(AssertionError))
    result = finetuning.run(composed("task=stability", f"output={undisturbed}", "keep_weights=true"))
    assert {(s.split, s.metric): s for s in result.scores} == scores(undisturbed)
    assert (result.stage, result.seeds, result.start) == ("stability", 2, "scratch")


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("task.patience=1", "task.patience is 6 there and 1 here"),
        ("data.seed=1", "data.seed is 0 there and 1 here"),
    ],
)
def test_a_directory_belongs_to_one_config(undisturbed: Path, override: str, difference: str):
    with pytest.raises(InputError, match=difference):
        finetuning.run(composed("task=stability", f"output={undisturbed}", "keep_weights=true", override))


def test_weights_are_deleted_unless_kept(tmp_path: Path):
    short = ("task=stability", "seeds=1", "task.tokens=2048", f"output={tmp_path}")
    finetuning.run(composed(*short))
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.ckpt"))
    assert len(list(tmp_path.rglob("result.json"))) == 1
    with pytest.raises(InputError, match=r"best/step-\d+: the weights were not kept: .*keep_weights=true"):
        finetuning.evaluate(evaluation(tmp_path, "test", "seeds=1", "task.tokens=2048"))
    with pytest.raises(InputError, match="its weights were not kept: for keep_weights=true choose another name"):
        finetuning.run(composed(*short, "keep_weights=true"))


def evaluation(output: Path, split: str, *overrides: str) -> EvaluateConfig:
    config = composed("task=stability", f"output={output}", *overrides)
    return EvaluateConfig(**vars(config), split=split)


@pytest.mark.parametrize("budget", [16, 64, 1024, 100_000])
def test_any_batch_budget_scores_every_record_the_same(undisturbed: Path, budget: int):
    config = evaluation(undisturbed, "test", f"task.micro_batch_tokens={budget}", f"task.step_tokens={budget}")
    for score in finetuning.evaluate(config):
        expected = scores(undisturbed)["test", score.metric]
        assert score.n == toys.TESTED
        assert score.value == pytest.approx(expected.value, rel=1e-5)


def test_scoring_says_how_far_each_seed_is(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(report, "LINE_SECONDS", 0.0)
    finetuning.evaluate(evaluation(undisturbed, "test", "task.micro_batch_tokens=64", "task.step_tokens=64"))
    said = re.findall(r"stability seed (\d)  scored (\d+)/(\d+) proteins  0:00:\d\d left", capsys.readouterr().err)
    for seed in "01":
        counts = [int(count) for of, count, total in said if (of, int(total)) == (seed, toys.TESTED)]
        assert len(counts) > 2
        assert counts == sorted(counts)
        assert counts[-1] == toys.TESTED


def test_an_evaluation_needs_a_split_that_exists(undisturbed: Path):
    with pytest.raises(InputError, match=r"split=casp99 is not one of train, valid, test"):
        finetuning.evaluate(evaluation(undisturbed, "casp99"))
    assert finetuning.evaluate(evaluation(undisturbed, "train"))[0].n == toys.COUNTS["train"]


def test_the_predictions_give_the_scores_again(undisturbed: Path):
    found = predictions.load(home(undisturbed, "stability"))
    assert found.keys() == scores(undisturbed).keys()
    for name, score in scores(undisturbed).items():
        sample = found[name]
        assert (sample.estimate(), *bootstrap(sample), sample.n) == (score.value, score.low, score.high, score.n)
        assert sample.seeds == 2
        assert sample.record.tolist() == list(range(score.n))


def test_predictions_are_in_the_units_of_the_targets(undisturbed: Path):
    sample = predictions.load(home(undisturbed, "stability"))["test", "spearman"]
    assert isinstance(sample, Predictions)
    assert np.abs(sample.prediction - sample.target).max() < 25, "around 1000, where the targets are"


@pytest.mark.parametrize("world", [2, 4])
def test_groups_agree_with_one_process(undisturbed: Path, tmp_path: Path, world: int):
    group = ("strategy=ddp", f"strategy.devices={world}", f"output={tmp_path}")
    config = composed("task=stability", "keep_weights=true", *group)
    in_group(world, lambda: finetuning.run(config))
    ours, theirs = (predictions.load(home(output, "stability")) for output in (tmp_path, undisturbed))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].record.tolist() == theirs[name].record.tolist(), "every record, once"
        assert np.allclose(values(ours[name]), values(theirs[name]), rtol=1e-4)


def test_batch_statistics_are_shared_by_all_processes(tmp_path: Path):
    overrides = (
        "task=secondary_structure",
        "task.head=convolution",
        "seeds=1",
        "task.tokens=4096",
        "keep_weights=true",
    )
    config = composed(*overrides, "strategy=ddp", "strategy.devices=2", f"output={tmp_path}")

    def with_a_slow_disk() -> None:
        write = finetuning.write_text

        def slowly(file: Path, text: str) -> None:
            time.sleep(2 * (file.name == finetuning.SELECTED))
            write(file, text)

        finetuning.write_text = slowly  # of a process that ends with this
        finetuning.run(config)

    in_group(2, with_a_slow_disk)
    for score in scores(tmp_path, "secondary_structure_q3").values():
        assert score.n == (toys.COUNTS["valid"] if score.split == "valid" else toys.TESTED)


def scripted(monkeypatch: pytest.MonkeyPatch, script: list[float]) -> list[tuple[int, dict[str, Tensor]]]:
    """Let the validation score follow a script; the weights at each validation, as they come."""
    seen: list[tuple[int, dict[str, Tensor]]] = []
    end = LabelledTask.on_validation_epoch_end

    def follow(self: LabelledTask) -> None:
        end(self)
        if self.trainer.state.fn == "fit":
            self.samples["valid"][self.score] = Scores(np.arange(2), np.full(2, script[len(seen)]), np.ones(2))
            tensors = {f"{p}.{n}": t.clone() for p, part in self.parts().items() for n, t in part.state_dict().items()}
            seen.append((self.trainer.global_step, tensors))

    monkeypatch.setattr(LabelledTask, "on_validation_epoch_end", follow)
    return seen


def test_the_best_validation_is_kept_and_patience_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = scripted(monkeypatch, [0.1, 0.5, 0.5, float("nan"), 0.4, 0.9, 0.9, 0.9])
    overrides = ("task=stability", "seeds=1", "task.validations=8", "task.patience=3", "keep_weights=true")
    result = finetuning.run(composed(*overrides, f"output={tmp_path}"))
    assert [step for step, _ in seen] == [2, 3, 5, 6, 8], "ended three validations after the best"
    assert selected(tmp_path, 0) | {"step": 3, "score": 0.5, "steps": 8} == selected(tmp_path, 0)
    assert result.steps == 8
    assert equal(weights(tmp_path, 0), seen[1][1])
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1


@pytest.mark.parametrize(("tokens", "epochs"), [(100_000, 2), (100_000, 5), (2048, 5)])
def test_the_budget_is_in_tokens_or_epochs_whichever_ends_first(tokens: int, epochs: int, tmp_path: Path):
    limits = (f"task.tokens={tokens}", f"task.epochs={epochs}", "seeds=1", "task.patience=0")
    result = finetuning.run(composed("task=stability", *limits, f"output={tmp_path}"))
    if tokens == 2048:
        assert result.steps == 2
    else:
        assert epochs <= result.epochs < epochs + 0.5, "rounded up to whole steps"
    rows = [row.split(",") for row in (home(tmp_path, "stability") / "seed-0/metrics.csv").read_text().splitlines()]
    rates = [float(value) for _, name, value in rows if name == "train/learning_rate"]
    assert len(rates) == result.steps
    assert min(rates) == rates[-1] == 0, "each step's own rate, which falls to zero"


def test_killed_when_patience_is_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    overrides = ("task=stability", "seeds=1", "task.validations=8", "task.patience=2", "keep_weights=true")
    with monkeypatch.context() as patched:
        scripted(patched, [0.1, 0.5, 0.3, 0.2])
        patched.setattr(finetuning, "write_text", raising(Killed))
        with pytest.raises(Killed):
            finetuning.run(composed(*overrides, f"output={tmp_path}"))
    monkeypatch.setattr(TaskModule, "training_step", raising(AssertionError))
    result = finetuning.run(composed(*overrides, f"output={tmp_path}"))
    assert (result.steps, selected(tmp_path, 0)["step"]) == (6, 3)


def test_scores_that_are_no_numbers_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scripted(monkeypatch, [float("nan")] * 4)
    with pytest.raises(InputError, match=r"no validation score was a number: .* task.learning_rate is too high"):
        finetuning.run(composed("task=stability", f"output={tmp_path}"))


def test_standardisation_makes_training_blind_to_units(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def in_other_units(*arguments: Any) -> list[dict[str, Any]]:
        records = toys.labelled(*arguments)
        return [r | {"stability_score": 2.0 * r["stability_score"] - 4096} for r in records]

    monkeypatch.setattr(synthetic, "labelled", in_other_units)
    finetuning.run(composed("task=stability", f"output={tmp_path}"))
    ours, theirs = (predictions.load(home(o, "stability"))["test", "spearman"] for o in (tmp_path, undisturbed))
    assert np.allclose(values(ours), 2 * values(theirs) - 4096, rtol=1e-4)
    assert scores(tmp_path)["test", "spearman"].value == pytest.approx(
        scores(undisturbed)["test", "spearman"].value, abs=0.02
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.head=enormous"], r"task.head=enormous is not one of mlp"),
        (["task.freeze=head"], r"task.freeze=head is not one of none, backbone"),
        (["task.micro_batch_tokens=300"], r"task.micro_batch_tokens=300 does not divide task.step_tokens=1024"),
        (
            ["task.micro_batch_tokens=16"],
            r"task.micro_batch_tokens=16 cannot hold the longest protein of synthetic stab",
        ),
        (["model.max_positions=20"], r"synthetic stability train, record \d+ \(train-\d+\): primary has 2\d residues"),
        (["seeds=0"], r"seeds=0 is less than 1"),
        (["strategy=ddp", "strategy.devices=3"], r"3 does not divide the 4 micro-batches of a step \(task.step_tokens"),
    ],
)
def test_impossible_values_name_their_knob(overrides: list[str], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        finetuning.run(composed("task=stability", f"output={tmp_path}", *overrides))


def test_a_start_must_be_chosen():
    with pytest.raises(InputError, match=r"model.path is empty: name the directory of pretrained weights, or a shape"):
        PretrainedConfig()


@pytest.mark.parametrize("entry", ["finetune", "evaluate"])
def test_printing_the_config_imports_no_torch(entry: str, tmp_path: Path):
    code = (
        f"import runpy, sys; sys.argv = ['{entry}', '--cfg', 'job', 'task=contact'];"
        f"runpy.run_module('experiments.{entry}', run_name='__main__');"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "name: contact" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    process = Command("experiments.finetune", ["task=contact"])
    _, errors = process.communicate()
    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert "model.path is empty" in errors
