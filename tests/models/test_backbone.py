"""A protein's hidden states depend on its own tokens alone, whatever it is packed with; the shapes are the paper's."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from proteinlm import vocabulary
from proteinlm.config import ModelConfig, PublishedConfig
from proteinlm.models import registry
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead

PARAMETERS = {  # (hidden size, layers, heads): with vocabulary 128, 2,176 positions and the language-model head
    (512, 32, 8): 102_320_768,
    (768, 12, 6): 87_417_728,
    (768, 16, 16): 115_769_216,
    (768, 16, 24): 115_769_216,
    (1024, 12, 16): 154_567_808,
    (1024, 12, 32): 154_567_808,
    (2048, 12, 16): 613_222_528,
    (2048, 24, 16): 1_217_521_792,
    (2048, 24, 8): 1_217_521_792,
    (3072, 24, 16): 2_735_398_016,
    (1024, 16, 16): 204_952_704,
    (8192, 3, 64): 2_502_262_912,
}


@pytest.mark.parametrize("shape", PARAMETERS)
def test_parameter_counts_of_the_full_shapes(shape: tuple[int, int, int]):
    config = ModelConfig(*shape)
    with torch.device("meta"):
        modules = Backbone(config), LanguageModelHead(config)
    assert sum(p.numel() for module in modules for p in module.parameters()) == PARAMETERS[shape] == config.parameters


@pytest.mark.parametrize("shape", PARAMETERS)
def test_a_gated_network_has_as_many_parameters(shape: tuple[int, int, int]):
    config = ModelConfig(*shape, positions="rotary", feed_forward="gated")
    with torch.device("meta"):
        modules = Backbone(config), LanguageModelHead(config)
    assert sum(p.numel() for module in modules for p in module.parameters()) == config.parameters
    without_table = PARAMETERS[shape] - config.max_positions * config.hidden_size
    assert config.parameters == pytest.approx(without_table, rel=0.015)
    assert config.intermediate_size % 64 == 0


def proteins(lengths: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(6, 31, (length,), generator=generator) for length in lengths]
    for protein in drawn:
        protein[0] = vocabulary.CLS
    return drawn


def hidden_states(backbone: Backbone, packed: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(protein) for protein in packed]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    return list(backbone(torch.cat(packed), starts, max(lengths)).split(lengths))


RECIPES = {
    "paper": ModelConfig(96, 3, 4, max_positions=128, dropout=0.0),
    "modern": ModelConfig(96, 3, 4, max_positions=128, dropout=0.0, positions="rotary", feed_forward="gated"),
}


@pytest.fixture(scope="module", params=["paper", "modern"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone(RECIPES[request.param])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return backbone


def published(norm: str) -> PublishedConfig:
    """An encoder as Hugging Face has them, closed by a token of its own."""
    return PublishedConfig(
        *(96, 3, 4), vocab_size=33, family="esm", feed_forward_size=128, norm=norm, tokens=[*range(31)], closing=[32]
    )


@pytest.mark.parametrize("config", [*RECIPES.values(), published("pre"), published("post")])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_states_that_are_wanted_are_those_of_all(config: ModelConfig, dropout: float):
    """In training too: the same dropout, and the same gradients."""
    torch.manual_seed(0)
    backbone = registry.build(replace(config, dropout=dropout))
    packed = proteins((9, 30, 30, 2))
    tokens, starts = torch.cat(packed), torch.tensor([0, *map(len, packed)]).cumsum(0).int()
    wanted, upstream = torch.tensor([0, 8, 9, 40, 70]), torch.randn(5, 96)

    def run(states: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        torch.manual_seed(1)
        backbone.zero_grad()
        found = states()
        found.backward(upstream)
        return [found.detach(), *(p.grad.clone() for p in backbone.parameters() if p.grad is not None)]

    few = run(lambda: registry.states_at(backbone, tokens, starts, 30, wanted))
    every = run(lambda: backbone(tokens, starts, 30)[wanted])
    assert len(few) == len(every) > 20
    for ours, theirs in zip(few, every, strict=True):
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)
