"""A run that stops goes on on any number of processes that divide the weights in any way: the same proteins in the same
order, the same losses, the same weights up to rounding; and bit for bit if they are divided as before.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.checkpoint import load_weights, restore, sharded
from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.errors import InputError
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training import pretraining
from tests.parallel.test_strategies import losses, without_key_biases
from tests.runs import SMALL, composed, equal, home, in_group, weights

STEPS = 10
OVERRIDES = (*SMALL, f"train.tokens={STEPS * 2048}", "optim.learning_rate=1e-3", "train.precision=fp32")
CHAIN = (  # processes, division, and the step it is stopped in
    (4, ("strategy=fsdp",), 2),
    (4, ("strategy=hsdp", "strategy.replicas=2"), 3),
    (4, ("strategy=fsdp_tensor",), 4),
    (2, ("strategy=fsdp",), 5),
    (2, ("strategy=tensor",), 6),
    (2, ("strategy=ddp_sharded",), 7),
    (2, ("strategy=fsdp",), 8),
    (2, ("strategy=ddp_sharded", "strategy.activations=recompute"), 9),
    (1, ("strategy=single",), STEPS),
)


class Stopped(BaseException):
    """Stands in for a signal: nothing between it and the process catches it."""


def attempt(output: Path, processes: int, division: tuple[str, ...], stop: int) -> None:
    """Train until step `stop` has begun; note what was seen of every finished step."""
    config = composed(*OVERRIDES, *division, f"strategy.devices={processes}", f"output={output}")
    training_step = MaskedLanguageModel.training_step
    seen: list[tuple[int, list[int]]] = []

    def stopping(self: MaskedLanguageModel, batch: MaskedBatch, batch_idx: int) -> Tensor:
        if self.trainer.global_step == stop:
            raise Stopped
        seen.append((self.trainer.global_step, batch.records.tolist()))
        return training_step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patched, suppress(Stopped):
        patched.setattr(MaskedLanguageModel, "training_step", stopping)
        pretraining.run(config)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (output / f"until-{stop}-{rank}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    pretraining.run(composed(*OVERRIDES, f"output={output}"))
    return output


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("chained")
    for processes in (4, 2, 1):
        links = [link for link in CHAIN if link[0] == processes]

        def work(links: list[tuple[int, tuple[str, ...], int]] = links) -> None:
            for link in links:
                attempt(output, *link)

        in_group(processes, work) if processes > 1 else work()
    return output


def test_a_run_that_changes_its_shape_at_every_stop(chained: Path, undisturbed: Path):
    assert losses(chained).keys() == losses(undisturbed).keys()
    for name, loss in losses(chained).items():
        assert loss == pytest.approx(losses(undisturbed)[name], abs=1e-5), name
    reference = without_key_biases(weights(undisturbed))
    for name, tensor in without_key_biases(weights(chained)).items():
        assert float((tensor - reference[name]).abs().max()) < 1e-5, name


def test_it_has_seen_the_same_proteins_in_the_same_order(chained: Path):
    schedule = pretraining.PretrainingData(composed(*OVERRIDES)).schedule
    first = 0
    for processes, division, stop in CHAIN:
        spread = composed(*OVERRIDES, *division, f"strategy.devices={processes}").strategy
        planned = [m.records.tolist() for step in schedule.steps(first, stop) for m in step]
        for rank in range(processes):
            seen = json.loads((chained / f"until-{stop}-{rank}.json").read_text())
            assert [records for _, records in seen] == planned[spread.data_rank(rank) :: spread.data_processes]
        first = stop


def test_two_checkpoints_are_kept_whoever_wrote_them(chained: Path):
    kept = sorted((home(chained) / "checkpoints").iterdir())
    assert [file.name for file in kept] == [f"step-{step:09d}.ckpt" for step in (STEPS - 1, STEPS)]


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on two processes: one undisturbed, and one that is stopped in a step and amid a checkpoint."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    division = (2, ("strategy=fsdp",))

    def work() -> None:
        attempt(whole, *division, STEPS)
        attempt(broken, *division, 3)
        with pytest.MonkeyPatch.context() as patched, suppress(Stopped):
            patched.setattr(sharded.dcp, "save", stopping_at(5, sharded.dcp.save))
            attempt(broken, *division, STEPS)
        attempt(broken, *division, STEPS)

    in_group(2, work)
    return whole, broken


def stopping_at(call: int, save: Callable[..., object]) -> Callable[..., object]:
    calls = []

    def counting(*arguments: object, **options: object) -> None:
        calls.append(0)
        save(*arguments, **options)
        if len(calls) == call:  # written, but not yet in its place
            raise Stopped

    return counting


def test_divided_as_before_it_ends_in_the_same_weights_bit_for_bit(divided: tuple[Path, Path]):
    whole, broken = divided
    assert len(json.loads((home(broken) / "stamp.json").read_text())) == 3
    assert equal(weights(whole), weights(broken))
    assert losses(whole) == losses(broken)
    left = sorted(file.name for file in (home(broken) / "checkpoints").iterdir())
    assert left == [f"step-{step:09d}.ckpt" for step in (STEPS - 1, STEPS)]


def test_final_weights_fit_a_model_that_is_not_divided(divided: tuple[Path, Path]):
    saved = load_weights(home(divided[0]) / "model")
    modules = {"backbone": Backbone(saved.config), "head": LanguageModelHead(saved.config)}
    restore(modules, saved)
    assert sum(tensor.numel() for tensor in saved.tensors.values()) == saved.config.parameters


@pytest.fixture
def copy(divided: tuple[Path, Path], tmp_path: Path) -> Path:
    """A checkpoint of two processes, in the home of a run that has not begun."""
    latest = checkpoint.last_good(home(divided[0]) / "checkpoints", reports=False)
    assert latest
    target = home(tmp_path) / "checkpoints" / "step-000000002.ckpt"
    shutil.copytree(latest, target)
    return target


@pytest.mark.parametrize("part", ["__1_0.distcp", ".metadata", "rest.pt"])
def test_a_missing_part_is_named(copy: Path, tmp_path: Path, part: str):
    (copy / part).unlink()
    with pytest.raises(InputError, match=f"{part}: a part of the checkpoint is missing") as error:
        pretraining.run(composed(*OVERRIDES, f"output={tmp_path}"))
    assert "\n" not in str(error.value)


def test_an_index_cannot_run_anything(copy: Path, tmp_path: Path):
    (copy / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match=r".metadata: not the index of a checkpoint: it asks for"):
        sharded.names(copy)


@pytest.mark.parametrize("division", ["single", "fsdp"])
def test_a_checkpoint_of_another_architecture_is_named(copy: Path, tmp_path: Path, division: str):
    def work() -> None:
        for override, complaint in (
            ("model.hidden_size=48", r"has shape \(.*32.*\), not \(.*48.*\)"),
            ("model.num_layers=1", r"an unknown tensor .*backbone.blocks.1"),
            ("model.num_layers=3", r"backbone.blocks.2"),
        ):
            config = composed(*OVERRIDES, f"strategy={division}", "strategy.devices=1", override)
            config.output = str(tmp_path)
            with pytest.raises(InputError, match=rf"step-000000002.ckpt: another architecture: .*{complaint}"):
                pretraining.run(config)
            (home(tmp_path) / "config.yaml").unlink()

    work() if division == "single" else in_group(1, work)
