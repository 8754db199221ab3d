"""Adapters change nothing until they are trained, are all that is trained beside the head, are saved alone, and are read
back as the sums that they stand for.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from proteinlm import checkpoint, load
from proteinlm.config import EvaluateConfig, LoraConfig, ModelConfig
from proteinlm.errors import InputError
from proteinlm.models import fused_layers, lora, narrow_layers
from proteinlm.models.backbone import Backbone
from proteinlm.models.lora import Factors, adapt, layers_of, merge
from proteinlm.records import results
from proteinlm.records.run_directory import WEIGHTS
from proteinlm.tasks.base import TaskModule
from proteinlm.training import finetuning
from tests.inference.commands import run
from tests.inference.models import saved
from tests.tasks import toys
from tests.tasks.toys import composed, home

SHAPE = ModelConfig(32, 2, 4, max_positions=64, dropout=0.0)
LORA = ("adapter=lora", "adapter.rank=3", "keep_weights=true", "task.tokens=6144", "task.learning_rate=2e-2")


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


def hidden(backbone: nn.Module) -> Tensor:
    tokens = torch.arange(40) % 20 + 6
    with torch.no_grad():
        return backbone(tokens, torch.tensor([0, 15, 40], dtype=torch.int32), 25)


def backbone() -> Backbone:
    torch.manual_seed(1)
    made = Backbone(SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def drawn(adapted: nn.Module) -> None:
    """Factors as after a long training."""
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)


def test_at_first_nothing_changes_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    for layers in (fused_layers, narrow_layers):  # adapted layers are PyTorch's
        monkeypatch.setattr(layers, "suits", lambda *_: False)
    plain, adapted = backbone(), backbone()
    adapt(adapted, LoraConfig())
    assert torch.equal(hidden(adapted), hidden(plain))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 4 * SHAPE.num_layers


@pytest.mark.parametrize("matrices", [["query_key_value"], ["output", "down"], list(LoraConfig().matrices)])
def test_the_sums_are_the_adapted_model(matrices: list[str]):
    adapted, plain = backbone(), backbone()
    config = LoraConfig(rank=5, alpha=7.0, matrices=matrices)
    adapt(adapted, config)
    drawn(adapted)
    base = {f"backbone.{name}": tensor for name, tensor in plain.state_dict().items()}
    kept = {f"backbone.{name}": tensor for name, tensor in Factors(adapted, with_base=False).state_dict().items()}
    assert len(kept) == 2 * len(matrices) * SHAPE.num_layers
    before = hidden(plain)
    sums = merge(kept, base, 7.0 / 5)
    plain.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in sums.items()})
    assert float((hidden(plain) - before).abs().max()) > 0.01
    torch.testing.assert_close(hidden(plain), hidden(adapted), rtol=0, atol=1e-5)
    whole = {f"backbone.{name}": tensor for name, tensor in Factors(adapted, with_base=True).state_dict().items()}
    assert all(torch.equal(tensor, sums[name]) for name, tensor in merge(whole, {}, 7.0 / 5).items())


def test_full_rank_factors_can_be_any_change():
    adapted, changed = backbone(), backbone()
    adapt(adapted, LoraConfig(rank=32, alpha=32.0, matrices=["query_key_value"]))
    for number, block in enumerate(changed.blocks):
        change = 0.1 * torch.randn(96, 32)
        with torch.no_grad():
            block.attention.query_key_value.weight += change
        layer: Any = adapted.get_submodule(f"blocks.{number}.attention.query_key_value")
        layer.lora_A["default"].weight.data = torch.eye(32)
        layer.lora_B["default"].weight.data = change
    torch.testing.assert_close(hidden(adapted), hidden(changed), rtol=0, atol=1e-5)


def test_encoders_of_hugging_face_have_the_same_matrices_by_other_names():
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 33,
    }
    bert = transformers.BertModel(transformers.BertConfig(**small), add_pooling_layer=False)
    t5 = transformers.T5EncoderModel(transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))
    for encoder, expected in ((bert, (3, 1, 1, 1)), (t5, (3, 1, 1, 1))):
        for matrix, count in zip(LoraConfig().matrices, expected, strict=True):
            assert len(layers_of(encoder, [matrix])) == 2 * count, matrix
        whole = layers_of(encoder, LoraConfig().matrices)
        linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
        assert sorted(whole) == sorted(linear)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("start"), SHAPE)


def config(output: Path, start: Path, *overrides: str) -> Any:
    """Stability from pretrained weights; the toys' shape of a model is left out."""
    made = composed("task=stability", *LORA, *overrides, f"output={output}")
    from proteinlm.config import PretrainedConfig

    made.model = PretrainedConfig(str(start))
    return made


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    output = tmp_path_factory.mktemp("tuned")
    finetuning.run(config(output, start))
    return output


def best(output: Path, seed: int) -> Path:
    stage = home(output, "stability") / f"seed-{seed}"
    step = json.loads((stage / "selected.json").read_text())["step"]
    return stage / f"best/step-{step:09d}"


def test_only_adapters_and_head_are_trained_and_saved(tuned: Path, start: Path):
    base = checkpoint.load_weights(start).tensors
    found = checkpoint.load_weights(best(tuned, 0)).tensors
    on_disk = load_file(best(tuned, 0) / WEIGHTS)
    factors = 3 * 2 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))  # rank, layers, inputs and outputs
    assert sum(tensor.numel() for name, tensor in on_disk.items() if name.startswith("backbone.")) == factors
    for name, tensor in base.items():
        if name.startswith("backbone."):
            adapted = name.endswith(".weight") and ".blocks." in name and "norm" not in name
            assert torch.equal(found[name], tensor) is not adapted, name
    result = results.load(home(tuned, "stability") / "result.json")
    head = sum(tensor.numel() for name, tensor in on_disk.items() if name.startswith("head."))
    assert result.trained == factors + head
    assert result.parameters == head + sum(
        tensor.numel() for name, tensor in base.items() if name.startswith("backbone.")
    )


def test_what_is_read_back_scores_and_predicts_the_same(tuned: Path, start: Path, tmp_path: Path):
    made = config(tuned, start)
    scored = {score.metric: score for score in finetuning.evaluate(EvaluateConfig(**vars(made), split="test"))}
    result = results.load(home(tuned, "stability") / "result.json")
    for metric, score in scored.items():
        assert score == result.score("stability", "test", metric)
    (tmp_path / "in.fasta").write_text(">a\nACDEFGHIKL\n")
    code, text, errors = run("predict", "stability", tmp_path / "in.fasta", "--model", home(tuned, "stability"))
    assert code == 0, errors
    assert 900 < float(text.splitlines()[1].split(",")[-1]) < 1200
    assert load(best(tuned, 0)).embed(["ACDEF"]).shape == (1, 32)


class Killed(BaseException):
    """Stands in for a signal."""


def test_killed_and_started_again_it_ends_the_same_bit_for_bit(
    tuned: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training_step = TaskModule.training_step

    def step_or_die(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 3 and batch_idx % 4 == 2:
            raise Killed
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(TaskModule, "training_step", step_or_die)
        finetuning.run(config(tmp_path, start))
    finetuning.run(config(tmp_path, start))
    for seed in (0, 1):
        assert (best(tmp_path, seed) / WEIGHTS).read_bytes() == (best(tuned, seed) / WEIGHTS).read_bytes()


def test_from_random_weights_the_base_is_saved_too(tmp_path: Path):
    finetuning.run(composed("task=stability", *LORA, "seeds=1", "task.tokens=2048", f"output={tmp_path}"))
    about = json.loads((best(tmp_path, 0) / lora.FILE).read_text())
    assert about["base"] == ""
    names = {name for name, _ in Backbone(ModelConfig(32, 1, 4, max_positions=64)).named_parameters()}
    found = checkpoint.load_weights(best(tmp_path, 0)).tensors
    assert {name.removeprefix("backbone.") for name in found if name.startswith("backbone.")} == names


def test_a_base_that_changed_or_is_gone_is_named(tuned: Path, start: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(best(tuned, 0), copy)
    about = json.loads((copy / lora.FILE).read_text())
    (copy / lora.FILE).write_text(json.dumps(about | {"fingerprint": "0" * 12}))
    with pytest.raises(InputError, match=r"adapter.json: made for the weights that .* held before"):
        checkpoint.load_weights(copy)
    (copy / lora.FILE).write_text(json.dumps(about | {"base": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match=r"adapter.json: made for the weights in .*gone, which is not there"):
        checkpoint.load_weights(copy)
    (copy / lora.FILE).write_text("{}")
    with pytest.raises(InputError, match=r"adapter.json: not an adapter"):
        checkpoint.load_weights(copy)


def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch):
    for overrides, message in (
        (["task.freeze=backbone"], r"adapter=lora and task.freeze=backbone exclude each other"),
        (["strategy=fsdp", "strategy.devices=2"], r"strategy=fsdp divides the matrices that adapter=lora leaves whole"),
        (["adapter.rank=0"], r"adapter.rank=0 is less than 1"),
        (["adapter.matrices=[]"], r"adapter.matrices is empty"),
    ):
        with pytest.raises(InputError, match=message):
            composed("task=stability", "adapter=lora", *overrides)
    with pytest.raises(
        InputError, match=r"adapter.matrices: the model has no gate; its linear layers are down, output,"
    ):
        adapt(backbone(), LoraConfig(matrices=["gate"]))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs peft: pip install 'proteinlm\[adapters\]'"):
        adapt(backbone(), LoraConfig())
