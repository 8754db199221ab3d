"""With train.cuda_graphs=true steps have few shapes, nothing in them waits for the device, and the training is the same.

No CUDA graph is recorded here: work that was recorded is done again in Python, on the memory that the record has.
"""

import csv
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm import device, optim
from proteinlm.config import RunConfig
from proteinlm.data.batches.fixed_shapes import NO_TARGET, FixedShapes
from proteinlm.data.batches.language_model import MaskedBatch, ShareOfSteps
from proteinlm.data.batches.masking import Masked, target_counts
from proteinlm.data.batches.packing import Packed
from proteinlm.data.batches.schedule import Schedule
from proteinlm.errors import InputError
from proteinlm.models import attention
from proteinlm.parallel import cuda_graphs
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training import pretraining
from tests.runs import SMALL, composed, furthest, home, weights

REAL = Path(__file__).parents[2].parent / "shared/data/pretrain/pretrain_valid.fasta.xz"
PERCENT = 15
RUN = (*SMALL, "train.precision=bf16-mixed", "optim.learning_rate=1e-3")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "require_cuda_graphs", lambda device, precision: None)


def steps_of(config: RunConfig, filled: bool) -> list[MaskedBatch]:
    """The micro-batches of the first epoch."""
    data = pretraining.PretrainingData(config)
    shapes = FixedShapes(config.train.micro_batch_tokens, config.model.max_positions, PERCENT) if filled else None
    proteins = data._masked("train", config.seed, shapes)
    steps = len(data.schedule.epoch(0)) // config.train.micro_batches
    return [proteins[plan] for plan in ShareOfSteps(data.schedule, 0, steps, 0, 1)]


def shape_of(masked: Masked) -> tuple[int, ...]:
    return (len(masked.packed.tokens), len(masked.packed.starts), masked.packed.longest, len(masked.positions))


def test_filling_changes_neither_losses_nor_gradients():
    config = composed(*SMALL, "model.dropout=0", "train.micro_batch_tokens=1024")
    model = pretraining.tasks.pretraining("masked_language_model")(config, ())
    assert isinstance(model, MaskedLanguageModel)
    pairs = list(zip(steps_of(config, False), steps_of(config, True), strict=True))
    assert len(pairs) > 5
    for plain, filled in pairs:
        count = len(plain.masked.positions)
        assert torch.equal(filled.masked.packed.tokens[: len(plain.masked.packed.tokens)], plain.masked.packed.tokens)
        assert (filled.masked.targets[count:] == NO_TARGET).all()
        assert filled[2:] == plain[2:]  # seed, targets of the step, residues
        results = []
        for batch in (plain, filled):
            losses = model(batch)
            gradient = torch.autograd.grad(losses.sum(), list(model.parameters()))
            results.append((losses.detach(), gradient))
        (expected, slopes), (found, others) = results
        torch.testing.assert_close(found[:count], expected)
        assert not found[count:].any()
        for ours, theirs in zip(others, slopes, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 1000, 1023, 1024])
def test_any_micro_batch_can_be_filled(tokens: int):
    """Also the last of an epoch, which may be a single short protein."""
    lengths = [128] * (tokens // 128) + [tokens % 128] * (tokens % 128 > 0)
    given = masked(np.array(lengths))
    filled = FixedShapes(1024, 128, PERCENT).fill(given).packed
    assert len(filled.tokens) == filled.starts[-1] == 1024
    assert torch.equal(filled.starts[: len(lengths) + 1], given.packed.starts)
    assert int(filled.starts.diff().min()) >= 0
    assert int(filled.starts.diff().max()) <= filled.longest == 128
    assert (len(filled.starts) - 1).bit_count() == 1


def masked(lengths: np.ndarray) -> Masked:
    """A micro-batch of proteins of so many tokens (B,), [CLS] included, and as many masked residues as they would have."""
    starts = torch.from_numpy(np.append(0, lengths.cumsum())).int()
    packed = Packed(torch.zeros(int(starts[-1]), dtype=torch.int64), starts, int(lengths.max()), len(lengths))
    places = torch.zeros(int(target_counts(lengths - 1, PERCENT).sum()), dtype=torch.int64)
    return Masked(packed, places, places)


@pytest.mark.parametrize(("budget", "most"), [(4096, 2), (32768, 1)])
def test_an_epoch_of_real_lengths_has_few_shapes(budget: int, most: int):
    if not REAL.exists():
        pytest.skip("needs the real proteins in ../shared/data")
    with lzma.open(REAL, "rt") as lines:
        records = "".join(line if line[0] != ">" else ">" for line in lines).replace("\n", "").split(">")[1:]
    lengths = np.array([len(record) for record in records])
    schedule = Schedule(lengths, longest=1023, budget=budget, per_step=1, seed=0, mask_percent=PERCENT)
    shapes = FixedShapes(budget, 1024, PERCENT)
    batches = [masked(schedule.lengths(records) + 1) for records in schedule.epoch(0)]
    assert len({shape_of(batch) for batch in batches}) > 0.9 * len(batches)
    assert len({shape_of(shapes.fill(batch)) for batch in batches}) <= most


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("recipe", ["paper", "modern"])
def test_training_comes_to_the_same(tmp_path: Path, recipe: str):
    """Dropout is off: it is drawn for other numbers of tokens."""
    found = {}
    for replayed in (False, True):
        output = tmp_path / str(replayed)
        words = (f"recipe={recipe}", "model.dropout=0", f"train.cuda_graphs={replayed}", f"output={output}")
        found[replayed] = pretraining.run(composed(*RUN, *words))
    assert found[True].config == found[False].config
    ours, theirs = (losses(tmp_path / str(replayed)) for replayed in (True, False))
    assert len(ours) == 12
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert furthest(weights(tmp_path / "True"), weights(tmp_path / "False")) < 2e-3


def losses(output: Path) -> list[float]:
    with (home(output) / "metrics.csv").open(newline="") as file:
        return [float(row[2]) for row in csv.reader(file) if row[1] == "train/loss"]


@pytest.mark.usefixtures("on_cpu")
def test_gradients_add_up_over_micro_batches_and_start_from_zero():
    config = composed(*SMALL, "model.dropout=0.1", "train.micro_batch_tokens=1024", "train.cuda_graphs=true")
    batches = steps_of(config, True)[:4]
    torch.manual_seed(0)
    model = pretraining.tasks.pretraining("masked_language_model")(config, ())
    assert isinstance(model, MaskedLanguageModel)
    model.replays = False
    for batch in batches:
        model.share_of_loss(batch).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    model.replays = True
    optimizer = torch.optim.SGD(model.parameters())
    for turn in range(2):
        for number, batch in enumerate(batches):
            loss = model.share_of_loss(batch)
            assert not loss.requires_grad
            if not number:
                model.optimizer_zero_grad(0, 0, optimizer)
            model.backward(loss)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        optim.clip(model.parameters(), 0.1)  # in place
        if turn:
            continue
        next(model.parameters()).grad = None  # as a skipped update does
    assert model.graphs
    assert len(model.graphs.shapes) == len({shape_of(batch.masked) for batch in batches})


def test_nothing_in_a_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch):
    """On the meta device, where tensors have no values, whatever asks for one is an error."""
    for recipe in ("paper", "modern"):
        config = composed(*SMALL, f"recipe={recipe}", "train.micro_batch_tokens=1024", "model.dropout=0.1")
        [batch, *_] = steps_of(config, True)
        with torch.device("meta"):
            model = pretraining.tasks.pretraining("masked_language_model")(config, ())
        monkeypatch.setattr(attention, "_fused", lambda device, dtype: dtype == torch.bfloat16)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *given: True)
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda *given: torch.bfloat16)
        loss = model.losses_of(moved(batch.masked, "meta")).sum()
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        assert all(slope.is_meta for slope in slopes)
        monkeypatch.undo()
        with pytest.raises(RuntimeError):  # the kernels of a CPU read the lengths
            model.losses_of(moved(batch.masked, "meta"))


def moved(masked: Masked, place: str) -> Masked:
    own = masked.packed._replace(tokens=masked.packed.tokens.to(place), starts=masked.packed.starts.to(place))
    return Masked(own, masked.positions.to(place), masked.targets.to(place))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.precision=fp32"], "excludes train.precision=fp32"),
        (["strategy=ddp"], "adds up the gradients of one process: not strategy=ddp"),
        (["strategy=fsdp"], "not strategy=fsdp"),
        (["strategy.activations=recompute"], "cannot record strategy.activations=recompute"),
        (["model=lstm", "task=next_residue"], "not lstm"),
    ],
)
def test_what_it_does_not_go_with_is_refused(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message):
        composed("train.cuda_graphs=true", *overrides)


def test_a_machine_without_cuda_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs a CUDA GPU, and this process computes on the CPU"):
        pretraining.run(composed(*RUN, "train.cuda_graphs=true", f"output={tmp_path}"))
    assert not list(tmp_path.rglob("*.yaml"))
    with pytest.raises(InputError, match="needs a GPU with bf16"):
        cuda_graphs.require_cuda_graphs(torch.device("cuda"), "fp32")
