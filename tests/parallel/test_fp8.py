"""With train.fp8=true the blocks multiply in fp8, nothing that is saved changes, and what cannot work is refused."""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from proteinlm import device
from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.models import registry, shape_buckets
from proteinlm.models.backbone import Backbone
from proteinlm.parallel import fp8
from proteinlm.records import results
from proteinlm.training import pretraining
from tests.runs import SMALL, composed, equal, home, in_group, weights

RUN = (*SMALL, "train.precision=bf16-mixed", "optim.learning_rate=1e-3", "model.dropout=0", "train.tokens=16384")
STEPS = 8
needs_torchao = pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is not installed")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's products of fp8 run on a CPU too, slowly."""
    monkeypatch.setattr(device, "require_fp8", lambda device: None)


def losses(output: Path) -> list[float]:
    with (home(output) / "metrics.csv").open(newline="") as file:
        return [float(row[2]) for row in csv.reader(file) if row[1] == "train/loss"]


def pretrain(output: Path, *overrides: str) -> results.Result:
    return pretraining.run(composed(*RUN, f"output={output}", *overrides))


@needs_torchao
@pytest.mark.usefixtures("on_cpu")
def test_the_loss_follows_that_of_bf16(tmp_path: Path):
    plain = pretrain(tmp_path / "bf16")
    scaled = pretrain(tmp_path / "fp8", "train.fp8=true")
    expected, found = losses(tmp_path / "bf16"), losses(tmp_path / "fp8")
    assert len(found) == STEPS
    assert found == pytest.approx(expected, rel=2e-3)
    assert found != expected  # something is multiplied in another precision
    assert (plain.precision, scaled.precision) == ("bf16-mixed", "fp8-mixed")
    assert plain.config == scaled.config
    ours, theirs = weights(tmp_path / "fp8"), weights(tmp_path / "bf16")
    assert {name: (x.shape, x.dtype) for name, x in ours.items()} == {
        name: (x.shape, x.dtype) for name, x in theirs.items()
    }


@needs_torchao
@pytest.mark.usefixtures("on_cpu")
def test_an_attempt_goes_on_with_the_other_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Stop(BaseException):
        pass

    begun = pretraining.Guard.on_train_batch_start

    def attempt(fp8: bool, until: int) -> None:
        def stopping(self: pretraining.Guard, trainer: L.Trainer, *given: Any) -> None:
            if trainer.global_step == until:
                raise Stop
            begun(self, trainer, *given)

        with monkeypatch.context() as patched, pytest.raises(Stop):
            patched.setattr(pretraining.Guard, "on_train_batch_start", stopping)
            pretrain(tmp_path, f"train.fp8={fp8}")

    attempt(fp8=True, until=2)
    attempt(fp8=False, until=4)
    assert pretrain(tmp_path, "train.fp8=true").steps == STEPS
    stamps = json.loads((home(tmp_path) / "stamp.json").read_text())
    assert [(stamp["step"], stamp["precision"]) for stamp in stamps] == [
        (0, "fp8-mixed"),
        (2, "bf16-mixed"),
        (4, "fp8-mixed"),
    ]
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


@needs_torchao
@pytest.mark.usefixtures("on_cpu")
def test_recomputed_and_divided_blocks_come_to_the_same_weights(tmp_path: Path):
    few = ("train.fp8=true", "train.tokens=4096")
    pretrain(tmp_path / "plain", *few)
    expected = weights(tmp_path / "plain")
    for activations in ("recompute", "recompute_offload"):
        pretrain(tmp_path / activations, *few, f"strategy.activations={activations}")
        assert equal(weights(tmp_path / activations), expected)
    in_group(2, lambda: pretrain(tmp_path / "fsdp", *few, "strategy=fsdp"))
    divided = weights(tmp_path / "fsdp")
    assert divided.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(divided[name], tensor, rtol=0, atol=1e-6)


@needs_torchao
def test_the_blocks_multiply_in_fp8_and_nothing_else_does():
    model = nn.ModuleDict(
        {
            "backbone": Backbone(ModelConfig(32, 2, 2, feed_forward="gated")),
            "head": registry.language_model_head(ModelConfig(32, 2, 2)),
        }
    )
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    fp8.multiply_in_fp8(block for block in model.modules() if isinstance(block, registry.BLOCKS))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    kinds = {name: type(layer).__name__ for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert kinds.pop("head.dense") == "Linear"
    assert len(kinds) == 2 * 5
    assert set(kinds.values()) == {"Float8Linear"}


def test_rows_are_rounded_as_the_products_need(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    assert shape_buckets.padding(33, gpu) == 0
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    assert [shape_buckets.padding(size, gpu) for size in (16, 17, 31, 32)] == [0, 15, 1, 0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hidden_size=40"], "gives matrices a side of 40, and"),
        (["model.hidden_size=32", "model.feed_forward=gated"], "gives matrices a side of 88, and"),
        (["train.precision=fp32"], "excludes train.precision=fp32"),
        (["strategy=tensor", "strategy.devices=2"], "strategy.name=tensor cuts the matrices"),
        (["model=resnet"], "not of resnet"),
    ],
)
def test_what_it_does_not_go_with_is_refused(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message):
        composed("train.fp8=true", *overrides)


def test_a_machine_that_cannot_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fp8, "_torchao", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute capability 8\.9 or newer, and this process computes on the CPU"):
        pretrain(tmp_path, "train.fp8=true")
    assert not list(tmp_path.rglob("*.yaml"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    with pytest.raises(InputError, match=r"8\.9 or newer, and NVIDIA A100 has 8\.0"):
        fp8.require_fp8(torch.device("cuda"))


def test_without_torchao_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(InputError, match=r"train.fp8=true needs torchao: pip install 'proteinlm\[fp8\]'"):
        fp8.require_fp8(torch.device("cuda"))
