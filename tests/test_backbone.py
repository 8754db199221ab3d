"""A protein's hidden states depend on its own tokens alone, whatever it is packed with; the shapes are the paper's."""

import pytest
import torch

from proteinlm import vocabulary
from proteinlm.attention import attend, boundaries, rotate, rotation
from proteinlm.backbone import Backbone, positions
from proteinlm.config import SCORED, ModelConfig
from proteinlm.heads import LanguageModelHead

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


@pytest.fixture(scope="module", params=["paper", "modern"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    recipe = {"paper": {}, "modern": {"positions": "rotary", "feed_forward": "gated"}}[request.param]
    backbone = Backbone(ModelConfig(96, 3, 4, max_positions=128, dropout=0.0, **recipe))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return backbone


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packing_changes_nothing(backbone: Backbone, dtype: torch.dtype, tolerance: float):
    sample = proteins((30, 2, 30, 127, 30, 64, 2))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        alone = [hidden_states(backbone, [protein])[0] for protein in sample]
        for order in ([0, 1, 2, 3, 4, 5, 6], [6, 1, 5, 0, 2, 4, 3], [3, 0]):
            together = hidden_states(backbone, [sample[index] for index in order])
            for index, states in zip(order, together, strict=True):
                scale = alone[index].abs().max() if dtype != torch.float32 else 1.0
                assert ((states - alone[index]).abs().max() / scale) < tolerance


def test_no_protein_sees_another(backbone: Backbone):
    sample = proteins((20, 33, 20))
    changed = [sample[0], sample[1].clone(), sample[2]]
    changed[1][1:] = 6
    before, after = hidden_states(backbone, sample), hidden_states(backbone, changed)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1], after[1])


def test_gradients_stay_within_a_protein(backbone: Backbone):
    sample = proteins((20, 33, 20))
    starts = torch.tensor([0, 20, 53, 73], dtype=torch.int32)
    captured = []
    handle = backbone.dropout.register_forward_hook(
        lambda _, __, output: captured.append(output) or output.retain_grad()
    )
    backbone(torch.cat(sample), starts, 33)[20:53].sum().backward()
    handle.remove()
    gradient = captured[0].grad.abs().sum(-1)
    assert (gradient[:20] == 0).all()
    assert (gradient[20:53] > 0).all()
    assert (gradient[53:] == 0).all()


def test_positions_restart_at_each_protein_and_skip_empty_ones():
    starts = torch.tensor([0, 3, 5, 9, 9, 9], dtype=torch.int32)  # two fillers of no length
    assert positions(starts, 9).tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]


def test_empty_fillers_change_nothing(backbone: Backbone):
    sample = torch.cat(proteins((30, 12)))
    plain = backbone(sample, torch.tensor([0, 30, 42], dtype=torch.int32), 30)
    filled = backbone(sample, torch.tensor([0, 30, 42, 42, 42], dtype=torch.int32), 64)
    assert torch.equal(plain, filled)


def test_initial_weights_have_the_papers_spread():
    torch.manual_seed(0)
    backbone = Backbone(ModelConfig(256, 8, 4))
    block = backbone.blocks[3]
    for weight in (
        backbone.token_embedding.weight,
        block.attention.query_key_value.weight,
        block.feed_forward.up.weight,
    ):
        assert abs(weight.std().item() - 0.02) < 0.001
    for weight in (block.attention.output.weight, block.feed_forward.down.weight):
        assert abs(weight.std().item() - 0.02 / 4) < 0.0003  # 1 / sqrt(2 * 8 layers)
    assert all((p == 0).all() for name, p in backbone.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_attention_is_softmax_of_scaled_products(dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    lengths = [5, 40, 40, 40, SCORED + 2, 17]
    inputs = torch.randn(3, sum(lengths), 2, 16, dtype=torch.float64).to(dtype)
    given, upstream = inputs.clone().requires_grad_(), torch.randn(sum(lengths), 2, 16).to(dtype)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        output = attend(*given, boundaries(starts, max(lengths), dtype))
    output.backward(upstream)
    exact = inputs.double().requires_grad_()
    parts = []
    for query, key, value in zip(*(x.split(lengths) for x in exact), strict=True):
        scores = torch.einsum("inx,jnx->nij", query, key) / 4
        parts.append(torch.einsum("nij,jnx->inx", scores.softmax(-1), value))
    torch.cat(parts).backward(upstream.double())
    assert output.dtype == dtype
    for ours, theirs in ((output, torch.cat(parts)), (given.grad, exact.grad)):
        assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 16, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        turned = rotate(torch.stack((query, key)).expand(2, 1, 2, 16), rotation(torch.tensor([i, j]), 16).double())
        return float(turned[0, 0, 0] @ turned[1, 0, 1])

    assert score(3, 8) == pytest.approx(score(1003, 1008), abs=1e-3)
    assert score(0, 0) == pytest.approx(float(query @ key), abs=1e-5)
    assert abs(score(3, 8) - score(8, 3)) > 0.1  # and on its sign


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_that_of_the_paper(dtype: torch.dtype):
    torch.manual_seed(0)
    x, places = torch.randn(5, 3, 2, 8, dtype=dtype), torch.tensor([0, 1, 2, 700, 2175])
    expected = torch.empty(5, 3, 2, 8, dtype=torch.float64)
    for pair in range(4):
        angle = places.double() * 10000 ** (-2 * pair / 8)
        a, b = x[..., 2 * pair].double(), x[..., 2 * pair + 1].double()
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        expected[..., 2 * pair], expected[..., 2 * pair + 1] = a * cosine - b * sine, a * sine + b * cosine
    ours = rotate(x, rotation(places, 8))
    assert ours.dtype == dtype
    assert (ours.double() - expected).abs().max() < (1e-3 if dtype == torch.float32 else 3e-2)
