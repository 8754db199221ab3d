"""Weight decay reaches the parameters that the recipe decays and no others; the learning rate is Megatron's at each step.

The recipe (ProteinLM's ``megatron``): no decay on biases and LayerNorms, decay on everything else, embeddings included. The
rate rises from 0 to its maximum over the warm-up, and falls in a straight line to its minimum at the last step.
"""

import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from proteinlm import optim
from proteinlm.config import LoraConfig, ModelConfig, OptimConfig
from proteinlm.models import lora, registry
from proteinlm.models.heads import Head, LanguageModelHead, NextResidueHead
from tests.models.baselines.samples import TINY
from tests.models.heads import concrete, task_heads

SHAPES = {
    "paper": ModelConfig(8, 2, 2, max_positions=16),
    "modern": ModelConfig(8, 2, 2, max_positions=16, positions="rotary", feed_forward="gated"),
    **TINY,
}
LORA_MATRICES = ("attention.query_key_value", "attention.output", "feed_forward.up", "feed_forward.down")

# The name of each parameter in its module, a layer's number as *: with decay, and without.
BACKBONES: dict[str, tuple[str, str]] = {
    "paper": (
        """token_embedding.weight position_embedding.weight
        blocks.*.attention.query_key_value.weight blocks.*.attention.output.weight
        blocks.*.feed_forward.up.weight blocks.*.feed_forward.down.weight""",
        """blocks.*.attention_norm.weight blocks.*.attention_norm.bias
        blocks.*.attention.query_key_value.bias blocks.*.attention.output.bias
        blocks.*.feed_forward_norm.weight blocks.*.feed_forward_norm.bias
        blocks.*.feed_forward.up.bias blocks.*.feed_forward.down.bias norm.weight norm.bias""",
    ),
    "modern": (
        """token_embedding.weight
        blocks.*.attention.query_key_value.weight blocks.*.attention.output.weight
        blocks.*.feed_forward.up.weight blocks.*.feed_forward.gate.weight blocks.*.feed_forward.down.weight""",
        """blocks.*.attention_norm.weight blocks.*.attention_norm.bias
        blocks.*.attention.query_key_value.bias blocks.*.attention.output.bias
        blocks.*.feed_forward_norm.weight blocks.*.feed_forward_norm.bias
        blocks.*.feed_forward.up.bias blocks.*.feed_forward.gate.bias blocks.*.feed_forward.down.bias
        norm.weight norm.bias""",
    ),
    "one_hot": ("", ""),
    "lstm": (
        """token_embedding.weight ahead.*.weight_ih_l0 ahead.*.weight_hh_l0 back.*.weight_ih_l0 back.*.weight_hh_l0""",
        """ahead.*.bias_ih_l0 ahead.*.bias_hh_l0 back.*.bias_ih_l0 back.*.bias_hh_l0""",
    ),
    "resnet": (
        "token_embedding.weight blocks.*.first.weight blocks.*.second.weight",
        """norm.weight norm.bias blocks.*.first_norm.weight blocks.*.first_norm.bias
        blocks.*.second_norm.weight blocks.*.second_norm.bias""",
    ),
    "post_norm": (
        """token_embedding.weight position_embedding.weight blocks.*.query_key_value.weight blocks.*.output.weight
        blocks.*.up.weight blocks.*.down.weight""",
        """norm.weight norm.bias blocks.*.query_key_value.bias blocks.*.output.bias
        blocks.*.attention_norm.weight blocks.*.attention_norm.bias blocks.*.up.bias blocks.*.down.bias
        blocks.*.feed_forward_norm.weight blocks.*.feed_forward_norm.bias""",
    ),
    "unirep": (
        """token_embedding.weight input_factor.direction state_factor.direction input_gates.direction
        state_gates.direction""",
        "bias input_factor.gain state_factor.gain input_gates.gain state_gates.gain",
    ),
    "protvec": ("trigrams.weight", ""),
}
LANGUAGE_MODEL_HEADS: dict[str, tuple[str, str]] = {
    "LanguageModelHead": ("dense.weight", "dense.bias norm.weight norm.bias bias"),
    "UntiedLanguageModelHead": ("dense.weight decoder", "dense.bias norm.weight norm.bias bias"),
    "NextResidueHead": ("output.weight", "output.bias"),
}
MLP = ("dense.weight output.weight", "dense.bias output.bias")
TASK_HEADS: dict[str, tuple[str, str]] = {
    "ResidueMLP": MLP,
    "ProteinMLP": MLP,
    "ProteinMean": MLP,
    "PairMLP": MLP,
    "ProteinLinear": ("output.weight", "output.bias"),
    "ResidueLinear": ("output.weight", "output.bias"),
    "ProteinLightAttention": (
        "value.weight attention.weight dense.weight output.weight",
        "value.bias attention.bias dense.bias output.bias",
    ),
    "ProteinPositions": ("weight", "bias"),
    "PairLinear": ("features.linear.weight", "features.linear.bias"),
    "ResidueConvolution": (
        "dense.parametrizations.weight.original1 output.parametrizations.weight.original1",
        """batch_norm.weight batch_norm.bias dense.bias output.bias
        dense.parametrizations.weight.original0 output.parametrizations.weight.original0""",
    ),
    "ProteinWeightNorm": (
        """pooler.0.weight dense.parametrizations.weight.original1 output.parametrizations.weight.original1""",
        """pooler.0.bias dense.bias output.bias
        dense.parametrizations.weight.original0 output.parametrizations.weight.original0""",
    ),
    "PairResidualNetwork": (
        "features.linear.weight blocks.*.convolution_1.weight blocks.*.convolution_2.weight output.weight",
        """features.linear.bias blocks.*.norm_1.weight blocks.*.norm_1.bias blocks.*.norm_2.weight blocks.*.norm_2.bias
        output.bias""",
    ),
}


def decay(module: nn.Module, matrices: str = "adamw") -> tuple[set[str], set[str]]:
    """The names of the parameters that `optim.build` decays, and of those it does not."""
    optimizer, _ = optim.build(module, OptimConfig(matrices, weight_decay=0.25), 10, SHAPES["paper"])
    decayed, left = set(), set()
    parameters = dict(module.named_parameters())
    for group in optimizer.param_groups:
        assert group["weight_decay"] in (0.0, 0.25)
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameters.pop(name) is parameter
            (decayed if group["weight_decay"] else left).add(re.sub(r"\b(blocks|ahead|back)\.\d+\.", r"\1.*.", name))
    assert not parameters, "a parameter is in no group"
    return decayed, left


def names(listed: tuple[str, str]) -> tuple[set[str], set[str]]:
    decayed, left = listed
    return set(decayed.split()), set(left.split())


def test_the_lists_name_every_module():
    kinds = {type(registry.build(config)) for config in SHAPES.values()}
    assert kinds == set(registry.BACKBONES.values()) - {registry.ForeignBackbone, registry.PublishedBackbone}
    assert set(LANGUAGE_MODEL_HEADS) == {kind.__name__ for kind in (*concrete(LanguageModelHead), NextResidueHead)}
    assert set(TASK_HEADS) == {kind.__name__ for kind in concrete(Head)}


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "one_hot"])
def test_decay_of_backbones(shape: str, matrices: str):
    module = nn.ModuleDict({"backbone": registry.build(SHAPES[shape])})  # Muon's matrices are known by this prefix
    found = [{name.removeprefix("backbone.") for name in group} for group in decay(module, matrices)]
    assert tuple(found) == names(BACKBONES[shape])


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_of_language_model_heads(shape: str):
    head = registry.language_model_head(SHAPES[shape])
    assert decay(head) == names(LANGUAGE_MODEL_HEADS[type(head).__name__])


def test_decay_of_the_head_of_next_residues():
    assert decay(NextResidueHead(4, 31)) == names(LANGUAGE_MODEL_HEADS["NextResidueHead"])


@pytest.mark.parametrize("option", task_heads(SHAPES["paper"]))
def test_decay_of_task_heads(option: str):
    head = task_heads(SHAPES["paper"])[option]
    decayed, left = names(TASK_HEADS[type(head).__name__])
    if option.endswith("weight_norm_wide"):  # without a pooler
        decayed, left = decayed - {"pooler.0.weight"}, left - {"pooler.0.bias"}
    assert decay(head) == (decayed, left)


def test_decay_of_adapters():
    """Both factors of each matrix are decayed; what is frozen gets no gradient, and the optimiser leaves it as it is."""
    backbone = registry.build(SHAPES["paper"])
    lora.adapt(backbone, LoraConfig(rank=2))
    decayed, left = decay(backbone)
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    factors = {f"blocks.*.{matrix}.lora_{side}.default.weight" for matrix in LORA_MATRICES for side in "AB"}
    assert {name for name in decayed if ".lora_" in name} == factors
    assert not any(".lora_" in name for name in left)
    optimizer, schedule = optim.build(backbone, OptimConfig(weight_decay=0.25), 10, SHAPES["paper"])
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(0)
    hidden = backbone(torch.randint(6, 31, (9,)), torch.tensor([0, 9], dtype=torch.int32), 9)
    hidden.square().sum().backward()
    optimizer.step()
    schedule.step()
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(before[name], after[name]) for name in before if ".lora_A" in name or ".lora_B" in name)


# maximum, minimum, share of the steps that warms up, steps
SCHEDULES = [
    (1e-4, 1e-5, 0.01, 990),  # the published recipe's, a thousandth of its length
    (1e-3, 0.0, 0.1, 40),  # a fine-tuning's
    (1e-3, 1e-4, 0.0, 7),
    (1e-3, 1e-3, 0.25, 12),
    (2e-3, 1e-4, 0.3, 11),  # 3.3 steps of warm-up
    (1e-3, 1e-4, 0.5, 1),
]


def megatron(maximum: float, minimum: float, share: float, steps: int) -> list[float]:
    """The rate of each update, counted from 1: straight lines from (0, 0) to the maximum, from there to the minimum."""
    knots = [0.0, float(Fraction(str(share)) * steps), float(steps)]
    start = 1 if share == 0 else 0
    return np.interp(np.arange(1, steps + 1), knots[start:], [0.0, maximum, minimum][start:]).tolist()


def rates(maximum: float, minimum: float, share: float, steps: int, resume: int = 0) -> list[float]:
    """The rates that the optimiser has in each of its updates, the schedule written and read again after `resume`."""
    config = OptimConfig(learning_rate=maximum, min_learning_rate=minimum, warmup_fraction=share)
    optimizer, schedule = optim.build(nn.Linear(2, 2), config, steps, SHAPES["paper"])
    found = []
    for step in range(steps):
        if resume and step == resume:
            saved, optimizer_state = schedule.state_dict(), optimizer.state_dict()
            optimizer, schedule = optim.build(nn.Linear(2, 2), config, steps, SHAPES["paper"])
            optimizer.load_state_dict(optimizer_state)
            schedule.load_state_dict(saved)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("recipe", SCHEDULES)
def test_the_rate_is_megatrons_at_each_step(recipe: tuple[float, float, float, int]):
    expected = megatron(*recipe)
    assert expected[-1] == pytest.approx(recipe[1], rel=1e-12)
    assert rates(*recipe) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_rate_of_ten_steps_by_hand():
    expected = [5e-4, 1e-3, 8.875e-4, 7.75e-4, 6.625e-4, 5.5e-4, 4.375e-4, 3.25e-4, 2.125e-4, 1e-4]
    assert rates(1e-3, 1e-4, 0.2, 10) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("resume", [1, 3, 20, 39])  # in the warm-up of 4 steps, and after it
def test_the_rate_goes_on_where_it_was(resume: int):
    assert rates(1e-3, 1e-4, 0.1, 40, resume) == rates(1e-3, 1e-4, 0.1, 40)


def test_a_carried_rate_keeps_the_decay_of_a_step():
    """At twice the base's width, matrices learn at half the rate, so that their decay is doubled."""
    model = ModelConfig(16, 2, 2, max_positions=16, base_hidden_size=8, base_num_layers=2)
    module = nn.ModuleDict({"backbone": registry.build(model)})
    optimizer, _ = optim.build(
        module, OptimConfig(learning_rate=1e-3, weight_decay=0.25, warmup_fraction=0.0), 10, model
    )
    for group in optimizer.param_groups:
        for name in group["names"]:
            decayed, _ = names(BACKBONES["paper"])
            pattern = re.sub(r"blocks\.\d+", "blocks.*", name.removeprefix("backbone."))
            assert (group["weight_decay"] > 0) == (pattern in decayed)
            if group["weight_decay"]:
                assert group["initial_lr"] * group["weight_decay"] == pytest.approx(1e-3 * 0.25)


def test_clipping_is_that_of_torch():
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    for layer in (ours, theirs):
        torch.manual_seed(1)
        layer.weight.grad, layer.bias.grad = torch.randn(5, 7), torch.randn(5)
    norm = optim.clip(ours.parameters(), 0.3)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.3))
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_the_state_of_an_optimiser_follows_the_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    config = OptimConfig()
    optimizer, schedule = optim.build(model, config, 10, ModelConfig(4, 1, 1))
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    state = optimizer.state_dict()
    # as if every parameter had a mesh of its own, in another order
    moments = dict(reversed(optim.moments(state).items()))
    groups = [{"params": [number], "names": [name]} for number, name in enumerate(moments)]
    other, resumed = optim.build(model, config, 10, ModelConfig(4, 1, 1))
    other.load_state_dict({"state": dict(enumerate(moments.values())), "param_groups": groups})
    resumed.load_state_dict(schedule.state_dict())
    for parameter in model.parameters():
        assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in other.state[parameter].items())
    assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in optimizer.param_groups]


class Sharded:
    """Stands in for fairscale's OSS, which keeps the optimiser of its own shard inside."""

    def __init__(self, optim: torch.optim.Optimizer) -> None:
        self.optim = optim


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=False),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ],
    ids=["fused", "plain", "another"],
)
def test_a_skipped_update_never_was(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], sharded: bool):
    def trained(gradients: list[float], skipped: set[int]) -> torch.Tensor:
        parameter = nn.Parameter(torch.ones(3))
        optimizer = make([parameter])
        for step, gradient in enumerate(gradients):
            parameter.grad = torch.full((3,), gradient)
            outer = Sharded(optimizer) if sharded else optimizer
            optim.skip_update(outer, torch.tensor(float(step in skipped)))  # type: ignore[arg-type]
            optimizer.step()
        return parameter.detach()

    assert torch.equal(trained([1.0, torch.nan, 2.0, torch.nan], {1, 3}), trained([1.0, 2.0], set()))
