"""With a base shape, wider and deeper models start and learn at the pace of the base; without, initial weights and rates are
the paper's.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from proteinlm import optim, vocabulary
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.models import mup
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead


class Model(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(config), LanguageModelHead(config)

    def forward(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the blocks (T, H), and logits (T, V)."""
        x, where = self.backbone.embed(tokens, starts, len(tokens))
        for block in self.backbone.blocks:
            x = block(x, where)
        return x, self.head(self.backbone.norm(x), self.backbone.token_embedding.weight)


def movement(config: ModelConfig, matrices: str) -> tuple[float, float]:
    """How far five steps move the residual stream and the logits, root mean square."""
    torch.manual_seed(0)
    model = Model(config)
    tokens, starts = torch.randint(6, 26, (256,)), torch.tensor([0, 100, 256], dtype=torch.int32)
    tokens[starts[:-1].long()] = vocabulary.CLS
    optimizer, _ = optim.build(
        model, OptimConfig(matrices=matrices, learning_rate=2e-3, warmup_fraction=0), 100, config
    )
    with torch.no_grad():
        before = model(tokens, starts)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens, starts)[1], tokens).backward()
        optimizer.step()
    with torch.no_grad():
        after = model(tokens, starts)
    stream, logits = (float((a - b).square().mean().sqrt()) for a, b in zip(after, before, strict=True))
    return stream, logits


def config(hidden: int, layers: int, transferred: bool) -> ModelConfig:
    base = {"base_hidden_size": 64, "base_num_layers": 2} if transferred else {}
    modern = {"positions": "rotary", "feed_forward": "gated"}
    return ModelConfig(hidden, layers, 4, max_positions=256, dropout=0.0, **modern, **base)


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_wide_models_move_as_far_as_narrow_ones(matrices: str):
    narrow, wide, untransferred = (
        movement(config(hidden, 2, transferred), matrices)
        for hidden, transferred in ((64, True), (256, True), (256, False))
    )
    for at_base, scaled, unscaled in zip(narrow, wide, untransferred, strict=True):
        assert abs(math.log(scaled / at_base)) < abs(math.log(unscaled / at_base))
        assert 1 / 1.5 < scaled / at_base < 1.5


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_deep_models_move_as_far_as_shallow_ones(matrices: str):
    shallow, deep, untransferred = (
        movement(config(64, layers, transferred), matrices)[0]
        for layers, transferred in ((2, True), (16, True), (16, False))
    )
    assert 1 / 2 < deep / shallow < 2
    assert untransferred / shallow > deep / shallow


def test_without_a_base_weights_are_drawn_as_megatron_draws_them():
    torch.manual_seed(0)
    drawn = {name: float(p.detach().std()) for name, p in Model(ModelConfig(64, 6, 4)).named_parameters()}
    into_the_stream = {name for name in drawn if name.endswith(("attention.output.weight", "feed_forward.down.weight"))}
    others = {name for name in drawn if name.endswith(("embedding.weight", "query_key_value.weight", "up.weight"))} | {
        "head.dense.weight"
    }
    assert (len(into_the_stream), len(others)) == (12, 15)
    assert {name: drawn[name] for name in others} == pytest.approx(dict.fromkeys(others, 0.02), rel=0.05)
    expected = dict.fromkeys(into_the_stream, 0.02 / math.sqrt(12))  # over the root of twice the layers
    assert {name: drawn[name] for name in into_the_stream} == pytest.approx(expected, rel=0.05)
    assert drawn["head.dense.bias"] == drawn["backbone.blocks.0.attention.query_key_value.bias"] == 0


def test_the_base_itself_is_not_changed():
    plain, based = config(64, 2, transferred=False), config(64, 2, transferred=True)
    torch.manual_seed(0)
    ours = Model(plain).state_dict()
    torch.manual_seed(0)
    theirs = Model(based).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    names = [name for name, _ in Model(plain).named_parameters()]
    assert {mup.rate(name, model, muon) for name in names for model in (plain, based) for muon in (True, False)} == {1}


def test_matrices_into_the_stream_get_the_rates_of_the_table():
    model = ModelConfig(256, 8, 4, base_hidden_size=64, base_num_layers=2)
    block = "backbone.blocks.3"
    assert mup.initial_gain(model) == 1 / 4
    assert mup.rate(f"{block}.attention.output.weight", model, muon=False) == 1 / 16
    assert mup.rate(f"{block}.attention.output.weight", model, muon=True) == 1 / 8
    assert mup.rate(f"{block}.attention.output.bias", model, muon=False) == 1 / 4
    assert mup.rate(f"{block}.feed_forward.up.weight", model, muon=True) == 1 / 2
    assert mup.rate(f"{block}.feed_forward.up.bias", model, muon=False) == 1
    assert mup.rate(f"{block}.attention_norm.weight", model, muon=False) == 1
    assert mup.rate("backbone.token_embedding.weight", model, muon=False) == 1
    assert mup.rate("head.dense.weight", model, muon=False) == 1 / 4
    assert mup.rate("head.norm.weight", model, muon=False) == 1 / 4


def test_decay_per_step_does_not_depend_on_the_shape():
    model = Model(config(512, 4, transferred=True))
    optimizer, _ = optim.build(model, OptimConfig(matrices="muon", weight_decay=0.1), 100, model.backbone.config)
    products = {group["lr"] * group["weight_decay"] for group in optimizer.param_groups if group["weight_decay"]}
    assert max(products) == pytest.approx(min(products), rel=1e-9)
    assert len({group["lr"] for group in optimizer.param_groups}) > 3
