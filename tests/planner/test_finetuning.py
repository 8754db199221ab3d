"""A fine-tuning that cannot fit is refused before it starts: its plan is what its module holds, and says what would fit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from proteinlm import planner, tasks
from proteinlm.config import FinetuneConfig, LoraConfig, ModelConfig
from proteinlm.errors import InputError
from proteinlm.models import lora
from proteinlm.planner import HARDWARE, Hardware, finetuning
from proteinlm.training.finetuning import counts, run
from tests.tasks import toys
from tests.tasks.toys import composed

LARGE = ("model.hidden_size=2048", "model.num_layers=24", "model.num_heads=16", "model.max_positions=2176")
ROOM = ("task.micro_batch_tokens=16384", "task.step_tokens=16384", "train.precision=auto")
SMALLEST = ("task.micro_batch_tokens=2048", "task.step_tokens=2048")  # of those that hold 1,500 residues


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


def shape(config: FinetuneConfig) -> ModelConfig:
    assert isinstance(config.model, ModelConfig)
    return config.model


@pytest.mark.parametrize("trained", [(), ("adapter=lora", "adapter.rank=4"), ("task.freeze=backbone",)])
@pytest.mark.parametrize("task", tasks.TASKS)
def test_weights_gradients_and_optimiser_are_exact(task: str, trained: tuple[str, ...]):
    config = composed(f"task={task}", *trained)
    with torch.device("meta"):
        module = tasks.module_of(config.task)(config.task, shape(config))
        if isinstance(config.adapter, LoraConfig):
            lora.adapt(module.backbone, config.adapter)
    some, everything = counts(module)
    planned = finetuning.memory(config, shape(config), 30, planner.processor(1))
    assert planned.weights == 4 * everything
    assert planned.gradients == 4 * some
    assert planned.optimiser == 8 * some


@pytest.mark.parametrize(
    ("overrides", "memory", "remedy"),
    [
        ((), 35e9, "task.micro_batch_tokens=4096"),
        (SMALLEST, 25e9, "strategy.activations=recompute"),
        (SMALLEST, 15e9, "adapter=lora"),
        (SMALLEST, 8e9, "adapter=lora strategy.activations=recompute"),
        (SMALLEST, 7.05e9, "task.freeze=backbone"),
        ((), 1e9, None),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(overrides: tuple[str, ...], memory: float, remedy: str | None):
    hardware = Hardware("H100", memory)
    config = composed("task=remote_homology", *LARGE, *ROOM, *overrides)
    hint = f"{remedy} would fit" if remedy else "no single knob would make it fit"
    with pytest.raises(
        InputError, match=rf"remote_homology: .* GB are needed in each process .*: {hint} \(force=true"
    ) as error:
        finetuning.check(config, shape(config), 1500, hardware)
    if remedy:
        suggested = str(error.value).rsplit(": ", 1)[1].split(" would fit")[0]
        again = composed("task=remote_homology", *LARGE, *ROOM, *overrides, *suggested.split())
        finetuning.check(again, shape(again), 1500, hardware)
    config.force = True
    finetuning.check(config, shape(config), 1500, hardware)


def test_heads_without_a_kernel_are_refused():
    config = composed("task=stability", *LARGE, *ROOM, "model.num_heads=4")
    with pytest.raises(
        InputError, match=r"stability: the model's 4 heads have no attention kernel, head dimension 512"
    ):
        finetuning.check(config, shape(config), 100, HARDWARE["h100"])
    finetuning.check(config, shape(config), 100, Hardware("CPU", 1e12, cuda=False))


def test_a_launch_is_refused_before_it_owns_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planner, "processor", lambda processes: Hardware("CPU", 1e6, cuda=False))
    with pytest.raises(InputError, match=r"stability: .* are needed in each process and CPU has 1.0 MB"):
        run(composed("task=stability", f"output={tmp_path}"))
    assert not list(tmp_path.rglob("config.yaml"))
