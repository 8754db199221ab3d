"""Each baseline goes through the real stages: pretrained, saved, loaded, fine-tuned on every task, asked for embeddings."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from proteinlm import checkpoint, load, vocabulary
from proteinlm.config import FinetuneConfig, NextResidueConfig, PretrainedConfig, RowConfig
from proteinlm.data import synthetic
from proteinlm.data.batches.masking import everything
from proteinlm.data.batches.packing import pack_letters
from proteinlm.errors import InputError
from proteinlm.interop import huggingface
from proteinlm.tasks.next_residue import NextResidue
from proteinlm.training import finetuning, pretraining
from tests.runs import ROOT, composed, furthest, in_group, weights
from tests.tasks import toys

SHORT = ("train.tokens=4096", "train.step_tokens=1024", "train.micro_batch_tokens=512", "train.validations=1")
SMALL = (
    *SHORT,
    "train.validation_tokens=1024",
    "train.threads=1",
    "model.max_positions=160",
    "tracking=none",
    "optim.learning_rate=1e-2",
    "data.folds=5",
    "data.members=6",
)
SHAPES = {
    "one_hot": (),
    "lstm": ("model.hidden_size=32", "model.num_layers=2", "model.embedding_size=8"),
    "resnet": ("model.hidden_size=16", "model.num_layers=2"),
    "transformer_tape": ("model.hidden_size=16", "model.num_layers=2", "model.num_heads=4"),
    "unirep": ("model.hidden_size=16",),
    "protvec": ("model.hidden_size=16",),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of one run of each."""
    output = tmp_path_factory.mktemp("baselines")
    for model, shape in SHAPES.items():
        result = pretraining.run(composed(*SMALL, f"model={model}", *shape, f"name={model}", f"output={output}"))
        assert result.family == {"transformer_tape": "post_norm"}.get(model, model)
        assert result.row == model
    return output


def where(output: Path, model: str) -> Path:
    return output / "single" / model / "pretrain/model"


@pytest.mark.parametrize("model", SHAPES)
def test_what_was_pretrained_is_loaded(pretrained: Path, model: str):
    saved = checkpoint.load_weights(where(pretrained, model))
    config = composed(*SMALL, f"model={model}", *SHAPES[model])
    assert asdict(saved.config) == asdict(config.backbone)
    assert type(saved.config) is type(config.backbone)
    asked = load(where(pretrained, model), device="cpu")
    vectors = asked.embed(["ACDEFGHIKL", "MKTAYIAK"])
    assert vectors.shape == (2, saved.config.hidden_size)
    np.testing.assert_allclose(asked.embed(["MKTAYIAK"])[0], vectors[1], atol=1e-5)
    with pytest.raises(InputError, match=r"of which only hidden states are to be had"):
        _ = asked.encoder
    with pytest.raises(InputError, match=r"has no form in Hugging Face"):
        huggingface.export(where(pretrained, model), pretrained / "exported")


@pytest.mark.parametrize("model", SHAPES)
def test_every_task_is_learnt_from_it(pretrained: Path, model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "labelled", toys.labelled)
    for task in ("secondary_structure", "remote_homology", "contact", "fluorescence", "stability"):
        result = finetuning.run(finetuning_of(pretrained, model, task))
        assert result.scores
        assert result.start == checkpoint.load_weights(where(pretrained, model)).fingerprint
        assert result.hidden_size == checkpoint.load_weights(where(pretrained, model)).config.hidden_size


def finetuning_of(output: Path, model: str, task: str) -> FinetuneConfig:
    shared = [option for option in toys.TINY if not option.startswith(("model", "seeds", "task.tokens"))]
    short = ("seeds=1", "task.tokens=2048", "task.validations=1", "tracking=none", f"output={output}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = compose("finetune", [*shared, f"task={task}", f"model.path={where(output, model)}", *short])
    config = OmegaConf.to_object(values)
    assert isinstance(config, FinetuneConfig)
    return config


def test_the_next_residue_in_both_directions(tmp_path: Path):
    overrides = (*SMALL, "model=lstm", *SHAPES["lstm"], "task=next_residue", "name=tiny")
    config = composed(*overrides, f"output={tmp_path}")
    assert isinstance(config.task, NextResidueConfig)
    result = pretraining.run(config)
    score = result.score("next_residue", "valid", "perplexity")
    assert score is not None
    assert 1 < score.value < 31
    longer = pretraining.run(composed(*overrides, f"output={tmp_path / 'longer'}", "train.tokens=32768"))
    better = longer.score("next_residue", "valid", "perplexity")
    assert better is not None
    assert better.value < score.value
    found = checkpoint.load_weights(tmp_path / "single/tiny/pretrain/model")
    assert {name for name in found.tensors if name.startswith("head.")} == {"head.output.weight", "head.output.bias"}


def test_losses_of_the_next_residue_see_one_side_each():
    config = composed(*SMALL, "model=lstm", *SHAPES["lstm"], "task=next_residue")
    torch.manual_seed(0)
    module = NextResidue(config, ()).eval()
    sequences = [np.frombuffer(text, np.uint8) for text in (b"ACDEFGHIK", b"M", b"WYV")]

    def losses(order: list[int]) -> list[torch.Tensor]:
        packed = pack_letters([sequences[place] for place in order])
        masked = everything(packed)
        assert masked.targets.tolist() == packed.tokens[packed.tokens > 5].tolist()
        batch = type("Batch", (), {"masked": masked})()
        with torch.no_grad():
            return list(module(batch).split([len(sequences[place]) for place in order]))

    together, others = losses([0, 1, 2]), losses([2, 0, 1])
    for one, other in zip(together, (others[1], others[2], others[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    ahead, back = module.backbone.directions(
        pack_letters([sequences[2]]).tokens, torch.tensor([0, 4], dtype=torch.int32)
    )
    known = torch.tensor([vocabulary.IDS[letter] for letter in "WYV"])
    ahead, back = ahead.detach(), back.detach()
    module.requires_grad_(False)
    logits = module.head(ahead[:3]) + module.head(torch.cat((back[2:], torch.zeros_like(back[:1]))))
    wanted = torch.nn.functional.cross_entropy(logits, known, reduction="none")
    torch.testing.assert_close(together[2], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("model", ["lstm", "resnet", "transformer_tape"])
def test_other_strategies_train_the_same(tmp_path: Path, model: str, strategy: str):
    shape = (f"model={model}", *SHAPES[model], "name=tiny", "model.dropout=0", "optim.epsilon=1e-4")
    pretraining.run(composed(*SMALL, *shape, f"output={tmp_path / 'one'}"))
    in_group(
        2,
        lambda: pretraining.run(
            composed(*SMALL, *shape, f"strategy={strategy}", "strategy.devices=2", f"output={tmp_path / 'two'}")
        ),
    )
    assert furthest(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4


def test_a_row_hands_its_shape_on(tmp_path: Path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        row = OmegaConf.to_object(compose("row", ["experiment/baselines=lstm", "profile=smoke", f"output={tmp_path}"]))
    assert isinstance(row, RowConfig)
    assert row.backbone.hidden_size == 64
    stages = row.finetunings(row.pretrained)
    assert all(isinstance(stage.model, PretrainedConfig) for stage in stages)
    assert len(stages) == 6
