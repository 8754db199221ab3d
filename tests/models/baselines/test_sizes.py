"""A baseline's shape knows its tensors, parameters and what it keeps; at full size they are TAPE's, but for named pieces."""

from math import prod

import pytest
import torch

from experiments.table7.published import BASELINES, FORERUNNERS
from experiments.table7.rows import shape_of
from proteinlm import planner
from proteinlm.config import BaselineConfig, LSTMConfig, ScaleConfig
from proteinlm.errors import InputError
from proteinlm.planner.cli import run_config
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from tests.models.baselines.samples import TINY, proteins
from tests.planner.test_plan import saved

ROWS = [*BASELINES, *FORERUNNERS]


def of_backbone(config: BaselineConfig) -> int:
    return sum(prod(shape) for name, shape in config.tensors().items() if name.startswith("backbone."))


@pytest.mark.parametrize("row", ROWS)
def test_the_shapes_in_yaml_are_built_tensor_by_tensor(row: str):
    config = run_config([f"experiment/baselines={row}"])
    assert config.name == row
    assert config.backbone == shape_of(row)
    with torch.device("meta"):
        module = MaskedLanguageModel(config, ())
    built = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    assert built == list(planner.parameter_shapes(config.backbone).items())
    assert sum(prod(shape) for _, shape in built) == config.backbone.parameters


def test_parameters_are_tapes_but_for_these_pieces():
    # bert-base: 91,961,856 with 8,192 positions, 30 tokens, one token type and a pooler (dense, 768 x 768 + 768), which got
    # no gradient in pretraining. Ours: 31 tokens, and the harness's 2,176 positions
    bert = shape_of("bert_base_tape")
    assert of_backbone(bert) == 91_961_856 - (8192 - 2176) * 768 + 768 - 768 - (768**2 + 768)
    # LSTM: 44,094,215 with 30 tokens, a mix of six states (7) and a pooler (1024 x 1024 + 1024)
    assert of_backbone(shape_of("lstm")) == 44_094_215 + 128 - 7 - (1024**2 + 1024)
    # ResNet: 47,526,913 with 30 tokens, attention pooling (513) and a pooler (512 x 512 + 512)
    assert of_backbone(shape_of("resnet")) == 47_526_913 + 512 - 513 - (512**2 + 512)
    # UniRep: 18,171,860 with 26 tokens
    assert of_backbone(shape_of("unirep")) == 18_171_860 + 5 * 10
    # the Transformer of TAPE's tables: 38 M, counting its blocks
    transformer = shape_of("transformer_tape")
    blocks = sum(prod(shape) for name, shape in transformer.tensors().items() if ".blocks." in name)
    assert blocks == 12 * (12 * 512**2 + 13 * 512) == 37_828_608
    # heads: BERT's, with the token table for a decoder where that is as wide as the states
    assert bert.parameters - of_backbone(bert) == 768**2 + 768 + 2 * 768 + 31
    assert shape_of("one_hot").parameters == 31**2 + 31 + 2 * 31 + 31 + 31 * 31


@pytest.mark.parametrize("profile", ["smoke", "laptop", "single_gpu", "paper"])
@pytest.mark.parametrize("row", ROWS)
def test_every_profile_scales_them_like_the_rest(row: str, profile: str):
    config = run_config([f"experiment/baselines={row}", f"profile={profile}"])
    full, built = config.model, config.backbone
    assert isinstance(full, BaselineConfig)
    assert isinstance(built, BaselineConfig)
    if row in ("one_hot", "protvec"):
        assert built == full
        return
    assert built.hidden_size == -(-full.hidden_size // config.scale.hidden_size)
    assert built.num_layers == -(-full.num_layers // config.scale.num_layers)
    if isinstance(built, LSTMConfig) and isinstance(full, LSTMConfig):
        assert built.embedding_size == full.embedding_size // config.scale.hidden_size


@pytest.mark.parametrize("family", TINY)
def test_what_is_kept_for_the_backward_pass(family: str):
    from proteinlm.models import registry

    config = TINY[family]
    if not config.activations_per_token:
        return
    wide = ScaleConfig().apply(config)
    wide.hidden_size, wide.num_layers = 128, 1 if family == "unirep" else 3
    backbone, sample = registry.build(wide), proteins((64,) * 8)
    starts = torch.arange(0, 513, 64, dtype=torch.int32)
    measured = saved(lambda: backbone(torch.cat(sample), starts, 64))
    assert 4 * wide.activations_per_token * wide.num_layers * 512 == pytest.approx(measured, rel=0.3)


def test_work_is_six_for_each_weight_and_token():
    lstm = shape_of("lstm")
    assert lstm.training_flops(1000, 0, 0) == 6 * 1000 * 2 * 4 * 1024 * ((128 + 1024) + 2 * 2048)
    resnet = shape_of("resnet")
    assert resnet.training_flops(1000, 0, 0) == 6 * 1000 * 30 * 2 * 3 * 512**2
    transformer = shape_of("transformer_tape")
    assert transformer.training_flops(1000, 10_000, 0) == 6 * 1000 * 12 * 12 * 512**2 + 12 * 12 * 512 * 10_000
    assert shape_of("one_hot").training_flops(1000, 10_000, 10) == 6 * 10 * 2 * 31**2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["experiment/baselines=lstm", "strategy=tensor"],
            r"strategy.name=tensor .* ProteinLM's encoder, not of lstm$",
        ),
        (["experiment/baselines=resnet", "strategy=fsdp_tensor"], r"strategy.name=fsdp_tensor .* not of resnet$"),
        (["model=lstm", "strategy.activations=recompute"], r"recomputes blocks, which lstm has not$"),
        (["model=lstm", "model.hidden_size=31"], r"model.hidden_size=31 is odd"),
        (["model=resnet", "model.kernel_size=4"], r"model.kernel_size=4 is even"),
        (["model=transformer_tape", "model.num_heads=7"], r"model.num_heads=7 does not divide model.hidden_size=512"),
        (["model=one_hot", "model.hidden_size=64"], r"model.hidden_size=64 is not model.vocab_size=31"),
        (["model=resnet", "task=next_residue"], r"task=next_residue needs .* model=lstm$"),
        (["model=lstm", "model.family=resnet"], r"model.family=resnet is not lstm"),
    ],
)
def test_impossible_values_are_one_line(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message) as refusal:
        run_config(overrides)
    assert "\n" not in str(refusal.value)


def test_plans_say_what_nobody_has_measured():
    made = planner.plan(run_config(["experiment/baselines=lstm"]), planner.PFAM, planner.HARDWARE["h100"])
    told = dict(planner.describe(made))
    assert made.parameters == shape_of("lstm").parameters
    assert made.speed is None
    assert told["attention"].startswith("no attention")
    assert told["time"] == "unknown: nobody has measured lstm on H100"
    assert "optimal tokens" not in told
    transformer = planner.plan(
        run_config(["experiment/baselines=bert_base_tape"]), planner.PFAM, planner.HARDWARE["h100"]
    )
    assert transformer.speed
    assert transformer.memory.weights == 4 * shape_of("bert_base_tape").parameters
