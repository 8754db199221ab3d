"""However a model is spread over one, two or four processes, it sees the same proteins in the same order and reaches the
same losses, gradient norms, scores and weights up to rounding.
"""

import csv
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proteinlm import checkpoint, optim, planner
from proteinlm.config import ModelConfig, StrategyConfig
from proteinlm.data.batches.language_model import MaskedBatch, pieces_by_length
from proteinlm.errors import InputError
from proteinlm.models.attention import boundaries
from proteinlm.models.backbone import Block
from proteinlm.parallel.dtensors import local
from proteinlm.parallel.recompute import recompute, recompute_offloaded
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training import pretraining
from tests.runs import SMALL, composed, finish, home, in_group, start, weights

STEPS = 5
OVERRIDES = (
    *SMALL,
    f"train.tokens={STEPS * 2048}",
    "data.members=4",  # an epoch takes about four steps
    "optim.learning_rate=1e-3",
    "optim.max_grad_norm=0.5",
    "train.precision=fp32",  # in which rounding is small beside any mistake, on every machine
    "train.checkpoint_seconds=60",
)


class Spread(NamedTuple):
    """One run of a group."""

    processes: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return (
            "-".join([str(self.processes), *self.overrides]).replace("strategy", "").replace("=", "").replace(".", "")
        )

    @property
    def recipe(self) -> str:
        return next((one for one in self.overrides if one.startswith("recipe=")), "recipe=paper")


SPREADS = [
    Spread(1, ("strategy=fsdp",)),
    Spread(2, ("strategy=ddp",)),
    Spread(2, ("strategy=ddp_sharded", "strategy.activations=recompute")),
    Spread(2, ("strategy=fsdp", "strategy.activations=recompute_offload")),
    Spread(2, ("strategy=tensor", "strategy.activations=recompute")),
    Spread(4, ("strategy=ddp",)),
    Spread(4, ("strategy=ddp_sharded",)),
    Spread(4, ("strategy=fsdp", "strategy.activations=recompute")),
    Spread(4, ("strategy=hsdp", "strategy.replicas=2")),
    Spread(4, ("strategy=tensor",)),
    Spread(4, ("strategy=fsdp_tensor", "strategy.tensor=2", "strategy.activations=recompute_offload")),
    Spread(2, ("strategy=ddp_sharded", "recipe=modern")),
    Spread(4, ("strategy=hsdp", "strategy.replicas=2", "recipe=modern")),
    Spread(4, ("strategy=fsdp_tensor", "strategy.tensor=2", "recipe=modern", "strategy.activations=recompute_offload")),
]


def spread(spread: Spread, output: Path) -> None:
    """One run of a process of a group, which notes the records it sees and the norms it clips."""
    config = composed(*OVERRIDES, *spread.overrides, f"strategy.devices={spread.processes}", f"output={output}")
    seen: list[tuple[int, list[int]]] = []
    norms: list[float] = []
    held: dict[str, int] = {}
    training_step, clip = MaskedLanguageModel.training_step, optim.clip
    clipping = MaskedLanguageModel.configure_gradient_clipping

    def noting(self: MaskedLanguageModel, batch: MaskedBatch, batch_idx: int) -> Tensor:
        seen.append((self.trainer.global_step, batch.records.tolist()))
        return training_step(self, batch, batch_idx)

    def noting_norm(*arguments: object) -> Tensor:
        norms.append(float(clip(*arguments)))
        return torch.tensor(norms[-1])

    def noting_bytes(self: MaskedLanguageModel, optimizer: Any, **settings: Any) -> None:
        # in the last step all are there: weights, gradients, and moments of this process
        inner = getattr(optimizer, "optim", optimizer)
        moments = [t for state in inner.state.values() for t in state.values() if t.ndim]
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        for what, tensors in (("weights", self.parameters()), ("gradients", gradients), ("optimiser", moments)):
            held[what] = sum(local(tensor).nbytes for tensor in tensors)
        clipping(self, optimizer, **settings)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MaskedLanguageModel, "training_step", noting)
        patched.setattr(MaskedLanguageModel, "configure_gradient_clipping", noting_bytes)
        patched.setattr(optim, "clip", noting_norm)
        pretraining.run(config)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (output / f"noted-{rank}.json").write_text(json.dumps({"seen": seen, "norms": norms, "held": held}))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One process, by recipe."""
    outputs = {}
    for recipe in ("recipe=paper", "recipe=modern"):
        outputs[recipe] = tmp_path_factory.mktemp("alone")
        spread(Spread(1, ("strategy=single", recipe)), outputs[recipe])
    return outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each run went; a group of processes makes all runs of its size."""
    made = {run.name: tmp_path_factory.mktemp(run.name) for run in SPREADS}
    for size in (1, 2, 4):
        runs = [run for run in SPREADS if run.processes == size]

        def work(runs: list[Spread] = runs) -> None:
            for run in runs:
                spread(run, made[run.name])

        in_group(size, work)
    return made


def losses(output: Path) -> dict[tuple[str, str], float]:
    with (home(output) / "metrics.csv").open() as file:
        return {(row[0], row[1]): float(row[2]) for row in list(csv.reader(file))[1:] if row[1].endswith("loss")}


def without_key_biases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A key's bias adds the same to all scores of a query: its gradient is nothing but rounding, which Adam enlarges."""

    def kept(name: str, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (4, 3, -1))[:, [0, 2]] if name.endswith("query_key_value.bias") else tensor

    return {name: kept(name, tensor) for name, tensor in weights.items()}


def assert_agree(ours: Path, theirs: Path) -> None:
    assert losses(ours).keys() == losses(theirs).keys()
    assert len(losses(ours)) == STEPS + 2 * 2  # each step, and two splits validated twice
    for name, loss in losses(ours).items():
        assert loss == pytest.approx(losses(theirs)[name], abs=1e-5), name
    reference = without_key_biases(weights(theirs))
    for name, tensor in without_key_biases(weights(ours)).items():
        assert float((tensor - reference[name]).abs().max()) < 1e-5, name


@pytest.mark.parametrize("run", SPREADS, ids=lambda run: run.name)
def test_every_strategy_agrees_with_one_process(run: Spread, outputs: dict[str, Path], alone: dict[str, Path]):
    output, reference = outputs[run.name], alone[run.recipe]
    assert_agree(output, reference)
    noted = [json.loads((output / f"noted-{rank}.json").read_text()) for rank in range(run.processes)]
    norms = json.loads((reference / "noted-0.json").read_text())["norms"]
    assert len(norms) == STEPS
    assert max(norms) > 0.5, "nothing was clipped"
    assert all(process["norms"] == pytest.approx(norms, rel=1e-5) for process in noted)


@pytest.mark.parametrize("run", SPREADS, ids=lambda run: run.name)
def test_every_record_is_seen_once_in_the_same_order(run: Spread, outputs: dict[str, Path]):
    config = composed(*OVERRIDES, *run.overrides, f"strategy.devices={run.processes}")
    schedule = pretraining.PretrainingData(config).schedule
    planned = [(number, m.records.tolist()) for number, step in enumerate(schedule.steps(0, STEPS)) for m in step]
    first_epoch = np.concatenate([m.records for step in schedule.steps(0, STEPS) for m in step if m.epoch == 0])
    assert sorted(first_epoch) == list(range(len(first_epoch)))
    spread = config.strategy
    for rank in range(run.processes):
        seen = json.loads((outputs[run.name] / f"noted-{rank}.json").read_text())["seen"]
        share = planned[spread.data_rank(rank) :: spread.data_processes]
        assert [(step, records) for step, records in seen] == share


@pytest.mark.parametrize("run", SPREADS, ids=lambda run: run.name)
def test_the_planner_foretells_what_a_process_holds(run: Spread, outputs: dict[str, Path]):
    config = composed(*OVERRIDES, *run.overrides, f"strategy.devices={run.processes}")
    planned = planner.memory(config, planner.processor(1))
    held = [json.loads((outputs[run.name] / f"noted-{rank}.json").read_text())["held"] for rank in range(run.processes)]
    for what in ("weights", "gradients", "optimiser"):
        assert getattr(planned, what) == pytest.approx(max(process[what] for process in held), rel=0.05), what


def test_the_command_line_starts_its_own_group(alone: dict[str, Path], tmp_path: Path):
    reference = alone["recipe=paper"]
    said = finish(start(tmp_path, *OVERRIDES[len(SMALL) :], "strategy=ddp", "strategy.devices=2", "train.workers=1"))
    assert said.count("valid perplexity") == 1
    assert_agree(tmp_path, reference)
    result = json.loads((home(tmp_path) / "result.json").read_text())
    assert result["processes"] == 2
    assert result["tokens"] == json.loads((home(reference) / "result.json").read_text())["tokens"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrap", [recompute, recompute_offloaded])
def test_recomputed_gradients_are_the_same_bit_for_bit(wrap: object, dtype: torch.dtype):
    config = ModelConfig(32, 2, 4, max_positions=64, dropout=0.1)
    starts = torch.tensor([0, 7, 20, 33], dtype=torch.int32)

    def gradients(wrapped: bool) -> Iterator[Tensor]:
        torch.manual_seed(0)
        blocks = nn.ModuleList(Block(config) for _ in range(2))
        names = list(blocks.state_dict())
        if wrapped:
            for block in blocks:
                wrap(block)
            assert list(blocks.state_dict()) == names
        x = first = torch.randn(33, 32, requires_grad=True)
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            for block in blocks:
                x = block(x, boundaries(starts, 13, dtype))
        x.square().sum().backward()
        assert first.grad is not None
        yield first.grad
        yield from (parameter.grad for parameter in blocks.parameters())

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, again)


def test_recomputation_keeps_little():
    config = ModelConfig(32, 1, 4, max_positions=64, dropout=0.1)
    starts = torch.tensor([0, 33], dtype=torch.int32)
    kept = {}
    for name, wrap in (("keep", lambda block: None), ("recompute", recompute), ("offload", recompute_offloaded)):
        block = Block(config)
        wrap(block)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            functools.partial(lambda saved, x: (saved.append(x.numel()), x)[1], saved), lambda x: x
        ):
            block(torch.randn(33, 32, requires_grad=True), boundaries(starts, 33, torch.float32))
        kept[name] = sum(saved)
    assert kept["recompute"] <= 33 * 32 < kept["keep"]
    assert kept["offload"] <= 33 * 32


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("strategy=tensor", "strategy.devices=3"),
            r"strategy.devices \* strategy.nodes = 3 does not divide model.num_heads=4",
        ),
        (("strategy=fsdp_tensor", "strategy.devices=3"), r"strategy.tensor=2 does not divide strategy.devices=3"),
        (("strategy=fsdp_tensor", "strategy.tensor=8", "strategy.devices=8"), r"strategy.tensor = 8 does not divide"),
        (("strategy=hsdp", "strategy.replicas=3"), r"strategy.replicas=3 does not divide the .* = 4 processes"),
        (
            ("strategy=fsdp", "strategy.devices=8"),
            r"strategy.devices \* strategy.nodes = 8 does not divide the 4 micro",
        ),
        (("strategy.activations=forget",), r"strategy.activations=forget is not one of"),
    ],
)
def test_an_impossible_division_names_its_knob(overrides: tuple[str, ...], message: str):
    with pytest.raises(InputError, match=message):
        composed(*SMALL, *overrides)


@pytest.mark.parametrize(
    ("lengths", "budget"),
    [([5] * 7, 30), ([5, 9, 9, 9, 9], 10), ([3, 4, 50, 60, 61], 64), ([237] * 6, 272), ([9] * 21, 10)],
)
def test_all_processes_score_as_often(lengths: list[int], budget: int):
    for world in (1, 2, 3, 4, 5):
        pieces = pieces_by_length(np.array(lengths), budget, world)
        assert len(pieces) % world == 0
        assert all(len(piece) for piece in pieces)
        assert sorted(np.concatenate(pieces)) == list(range(len(lengths)))


def test_more_processes_than_proteins():
    config = composed(
        *SMALL, "strategy=ddp", "strategy.devices=64", "train.micro_batch_tokens=256", "train.step_tokens=16384"
    )
    config.data.members = 1
    with pytest.raises(InputError, match="proteins to train on are fewer than strategy's 64 processes"):
        pretraining.PretrainingData(config)


def test_processes_that_share_matrices_share_batches():
    spread = StrategyConfig("fsdp_tensor", devices=8, nodes=2, tensor=4)
    assert [spread.data_rank(rank) for rank in range(16)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert spread.data_processes == 4


def test_every_process_finds_the_weights_that_pretraining_leaves(tmp_path: Path):
    config = composed(*SMALL, "strategy=ddp", "strategy.devices=2", "train.tokens=4096", f"output={tmp_path}")

    def work() -> None:
        save = checkpoint.save_tensors

        def slowly(*arguments: Any) -> None:
            time.sleep(2)
            save(*arguments)

        checkpoint.save_tensors = slowly  # of a process that ends with this
        pretraining.run(config)
        assert checkpoint.load_weights(home(tmp_path) / "model").tensors

    in_group(2, work)
