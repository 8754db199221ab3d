"""Fine-tuning starts from the weights that it is given, goes on from no others, and names what is damaged or foreign."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.config import ModelConfig, PretrainedConfig
from proteinlm.errors import InputError
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from proteinlm.storage.checksums import SUMS
from proteinlm.training import finetuning
from tests.runs import equal
from tests.tasks import toys
from tests.tasks.toys import composed


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Weights as pretraining leaves them."""
    shape = ModelConfig(32, 1, 4, max_positions=64)
    directory = tmp_path / "runs/sweep/row/pretrain/model"
    checkpoint.save_weights(directory, {"backbone": Backbone(shape), "head": LanguageModelHead(shape)}, shape)
    return directory


def test_a_probe_leaves_the_pretrained_backbone_as_it_was(pretrained: Path, tmp_path: Path):
    config = composed("task=stability", "task.freeze=backbone", f"output={tmp_path}", "keep_weights=true", "seeds=1")
    config.model, config.name = PretrainedConfig(str(pretrained)), ""
    config.__post_init__()
    assert config.name == "row", "that of the pretraining run"
    result = finetuning.run(config)
    assert result.start == checkpoint.load_weights(pretrained).fingerprint
    (best,) = tmp_path.rglob("best/step-*")
    start, end = checkpoint.load_weights(pretrained).tensors, checkpoint.load_weights(best).tensors
    backbone = {name for name in start if name.startswith("backbone.")}
    assert backbone == {name for name in end if name.startswith("backbone.")}
    assert equal({name: start[name] for name in backbone}, {name: end[name] for name in backbone})


def test_other_weights_do_not_go_on_with_a_stage(pretrained: Path, tmp_path: Path):
    config = composed("task=stability", "name=row", "seeds=1", "task.tokens=1024", f"output={tmp_path}")
    config.model = PretrainedConfig(str(pretrained))
    finetuning.run(config)
    moved = pretrained.rename(pretrained.with_name("moved"))
    config.model = PretrainedConfig(str(moved))
    finetuning.run(config)  # the same weights, in another place
    tensors = checkpoint.load_weights(moved).tensors
    tensors["backbone.norm.bias"] += 1
    replace_weights(moved, tensors)
    with pytest.raises(InputError, match=r"belongs to another config \(inputs.start is \w+ there and \w+ here\)"):
        finetuning.run(config)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), r"model: no model.safetensors in it"),
        (lambda d: (d / "config.json").unlink(), r"model: no config.json in it"),
        (lambda d: reshape(d, '{"hidden_size": 32, "colour": 1}'), r"config.json: not the shape"),
        (lambda d: reshape(d, "{"), r"config.json: not the shape of a model"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 64), r"model.safetensors: damaged"),
        (lambda d: change(d, "backbone.norm.bias", None), r"model: no tensor backbone.norm.bias"),
        (lambda d: change(d, "backbone.extra", "backbone.norm.bias"), r"model: an unknown tensor backbone.extra"),
        (
            lambda d: change(d, "backbone.norm.bias", "backbone.position_embedding.weight"),
            r"model: tensor backbone.norm.bias has shape \(64, 32\), not \(32,\)",
        ),
    ],
)
def test_foreign_weights_are_named(pretrained: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str):
    config = composed("task=stability", "name=row", f"output={tmp_path}")
    config.model = PretrainedConfig(str(pretrained))
    damage(pretrained)
    with pytest.raises(InputError, match=message):
        finetuning.run(config)


def reshape(directory: Path, text: str) -> None:
    """As if another shape had been put there, with no checksum to tell."""
    (directory / "config.json").write_text(text)
    (directory / SUMS).unlink()


def change(directory: Path, name: str, copied: str | None) -> None:
    tensors = checkpoint.load_weights(directory).tensors
    tensors.pop(name, None)
    if copied:
        tensors[name] = tensors[copied].clone()
    replace_weights(directory, tensors)


def replace_weights(directory: Path, tensors: dict[str, Tensor]) -> None:
    """As if other weights had been put there, with no checksum to tell."""
    (directory / "model.safetensors").write_bytes(save(tensors))
    (directory / SUMS).unlink()
