"""Attention is the softmax of scaled products within each protein, and so are its gradients."""

import pytest
import torch
from torch import Tensor

from proteinlm.config import max_scored_tokens
from proteinlm.models import attention_cpu
from proteinlm.models.attention import attend, boundaries, rotate, rotate_heads, rotation

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
HEADS, DIM = 2, 16


def reference(joint: Tensor, turns: Tensor | None, lengths: list[int]) -> Tensor:
    """In float64, protein by protein."""
    parts = []
    for query, key, value in zip(*(x.split(lengths) for x in rotate_heads(joint, turns)), strict=True):
        scores = torch.einsum("inx,jnx->nij", query, key) / DIM**0.5
        parts.append(torch.einsum("nij,jnx->inx", scores.softmax(-1), value))
    return torch.cat(parts)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "lengths",
    [
        [5, 40, 40, 40, -1, 17],  # -1: one more than is computed by products
        [40, 40, 40, 40, 40, 7],  # cut within a run of equal lengths
        [-1, -1],
        [1],
    ],
)
def test_attention_is_softmax_of_scaled_products(
    lengths: list[int], dtype: torch.dtype, rotary: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention_cpu, "BLOCK", 100)
    torch.manual_seed(0)
    bf16 = dtype == torch.bfloat16
    lengths = [max_scored_tokens(bf16) + 1 if length < 0 else length for length in lengths]
    tokens = sum(lengths)
    given = torch.randn(tokens, HEADS, 3, DIM).to(dtype).requires_grad_()
    exact = given.detach().double().requires_grad_()
    upstream = torch.randn(tokens, HEADS, DIM).to(dtype)
    turns = rotation(torch.cat([torch.arange(length) for length in lengths]), DIM) if rotary else None
    where = boundaries(torch.tensor([0, *lengths]).cumsum(0).int(), max(lengths), dtype)._replace(rotation=turns)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = attend(given, where)
    output.backward(upstream)
    expected = reference(exact, turns, lengths)
    expected.backward(upstream.double())
    assert output.dtype == dtype
    for ours, theirs in ((output, expected), (given.grad, exact.grad)):
        assert (ours - theirs).norm() < TOLERANCE[dtype] * theirs.norm()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert torch.equal(attend(given.detach(), where), output.detach())


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
