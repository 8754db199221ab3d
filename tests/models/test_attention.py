"""Attention is the softmax of scaled products within each protein, and so are its gradients, in each way of computing it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.config import max_scored_tokens
from proteinlm.models import attention_compiled, attention_cpu
from proteinlm.models.attention import attend, boundaries, rotate, rotate_heads, rotation
from proteinlm.models.kernels.compiler import has_bf16_products

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
HEADS, DIM = 2, 16
WITH_BF16_PRODUCTS = pytest.mark.skipif(not has_bf16_products(), reason="the processor has no products in bfloat16")


def reference(joint: Tensor, turns: Tensor | None, lengths: list[int]) -> Tensor:
    """In float64, protein by protein."""
    parts, dim = [], joint.shape[-1]
    for query, key, value in zip(*(x.split(lengths) for x in rotate_heads(joint, turns)), strict=True):
        scores = torch.einsum("inx,jnx->nij", query, key) / dim**0.5
        parts.append(torch.einsum("nij,jnx->inx", scores.softmax(-1), value))
    return torch.cat(parts)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        *(("products", dtype) for dtype in TOLERANCE),
        *(("C", dtype) for dtype in TOLERANCE),
        pytest.param("C, bf16 products", torch.bfloat16, marks=WITH_BF16_PRODUCTS),
    ],
)
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
    lengths: list[int], way: str, dtype: torch.dtype, rotary: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention_cpu, "BLOCK", 100)
    torch.manual_seed(0)
    bf16 = dtype == torch.bfloat16
    if way == "products":
        monkeypatch.setattr(attention_compiled, "longest", lambda joint: 0)
    elif way == "C":
        monkeypatch.setattr(attention_compiled, "has_bf16_products", lambda: False)
        monkeypatch.setattr(attention_compiled, "LONGEST", max_scored_tokens(bf16))
    assert way == "products" or attention_compiled.longest(torch.empty(1, HEADS, 3, DIM, dtype=dtype))
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


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dim", [1, 4, 6, 8, 12, 16, 24, 33, 64, 128])
def test_compiled_attention_takes_heads_of_any_width(dim: int, fused: bool, monkeypatch: pytest.MonkeyPatch):
    if not fused:  # what processors without AVX-512 have
        monkeypatch.setattr(attention_compiled, "has_avx512", lambda: False)
    torch.manual_seed(0)
    lengths = [1, 3, 16, 17, 33, 65, 65]
    given = torch.randn(sum(lengths), 3, 3, dim)
    upstream = torch.randn(sum(lengths), 3, dim)
    assert max(errors(attention_compiled.attend, given, upstream, lengths)) < 1e-6


def errors(way: Callable[..., Tensor], given: Tensor, upstream: Tensor, lengths: list[int]) -> list[float]:
    """Relative errors of the output and of its gradient."""
    joint = given.clone().requires_grad_()
    exact = given.double().requires_grad_()
    output = way(joint, None, [(1, length) for length in lengths])
    output.backward(upstream)
    expected = reference(exact, None, lengths)
    expected.backward(upstream.double())
    assert joint.grad is not None
    assert exact.grad is not None
    return [
        float((ours - theirs).norm() / theirs.norm())
        for ours, theirs in ((output.detach(), expected.detach()), (joint.grad, exact.grad))
    ]


@WITH_BF16_PRODUCTS
@pytest.mark.parametrize("dim", [1, 4, 6, 16, 24, 33, 64, 72, 128])
def test_compiled_attention_in_bfloat16_is_nearer_to_the_exact_one_than_products(dim: int):
    torch.manual_seed(0)
    lengths = [1, 3, 16, 17, 31, 32, 33, 65, 65]
    given, upstream = torch.randn(sum(lengths), 3, 3, dim).bfloat16(), torch.randn(sum(lengths), 3, dim).bfloat16()
    ours = errors(attention_compiled.attend, given, upstream, lengths)
    theirs = errors(attention_cpu.attend, given, upstream, lengths)
    assert all(0 < a < b for a, b in zip(ours, theirs, strict=True))


WANTED = {
    "some": [0, 3, 4, 21, 22, 23, 24, 60, 61, 122],
    "none of some proteins": [1, 100],
    "those of one protein": list(range(20, 53)),
    "all": list(range(123)),
    "none": [],
    "in any order, some twice": [50, 3, 0, 50, 122, 0, 0],
    "some of them more often than proteins are long": [0] * 40 + [7] * 50 + [118] * 70,
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize(
    ("dtype", "dim"),
    [
        (torch.float32, 16),
        (torch.float32, 6),
        (torch.float32, 80),  # by products without AVX-512
        (torch.bfloat16, 16),
        pytest.param(torch.bfloat16, 72, marks=WITH_BF16_PRODUCTS),
    ],
)
def test_attention_of_the_wanted_tokens_is_that_of_all_taken_there(wanted: list[int], dtype: torch.dtype, dim: int):
    torch.manual_seed(0)
    lengths = [1, 19, 33, 33, 5, 32]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    turns = rotation(torch.cat([torch.arange(length) for length in lengths]), dim)
    where = boundaries(starts, max(lengths), dtype)._replace(rotation=turns)
    given, places = torch.randn(123, 2, 3, dim).to(dtype), torch.tensor(wanted, dtype=torch.long)
    upstream = torch.randn(len(wanted), 2, dim).to(dtype)

    def run(at: Tensor | None) -> tuple[Tensor, Tensor]:
        joint = given.clone().requires_grad_()
        output = attend(joint, where, at) if at is not None else attend(joint, where).index_select(0, places)
        output.backward(upstream)
        assert joint.grad is not None
        return output, joint.grad

    often = max(map(wanted.count, wanted), default=1)  # gradients of a token are as many times as large
    for ours, theirs in zip(run(places), run(None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(1e-6 if dtype == torch.float32 else 0.03) * often**0.6)


@pytest.mark.parametrize("wanted", [[5, 40], [-1, 3]])
def test_compiled_attention_refuses_tokens_that_are_not_there(wanted: list[int]):
    with pytest.raises(IndexError, match="are wanted of 40"):
        attention_compiled.attend_few(
            torch.randn(2, 2, 8), torch.randn(40, 2, 2, 8), None, [(2, 20)], torch.tensor(wanted)
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [-500.0, 500.0])
def test_compiled_attention_takes_scores_of_any_size(size: float, dtype: torch.dtype):
    torch.manual_seed(0)
    given, upstream = torch.randn(40, 1, 3, 16), torch.randn(40, 1, 16)
    given[..., 0, 0], given[..., 1, 0] = 4.0, size  # adds `size` to every score
    given, upstream = given.to(dtype), upstream.to(dtype)
    found = errors(attention_compiled.attend, given, upstream, [40])
    if dtype == torch.float32:
        assert max(found) < 1e-4
    else:  # a gradient is `size` times what cancels but for rounding, in PyTorch's too
        theirs = errors(lambda joint, *_: attend_by_pytorch(joint), given, upstream, [40])
        assert all(error < 1.25 * other for error, other in zip(found, theirs, strict=True))


def attend_by_pytorch(joint: Tensor) -> Tensor:
    """Attention of one protein's joint (T, N, 3, D) by PyTorch's function for it."""
    query, key, value = joint.permute(2, 1, 0, 3).unsqueeze(1)
    return F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_compiled_attention_is_the_same_on_any_number_of_threads(dtype: torch.dtype):
    torch.manual_seed(0)
    given, upstream = torch.randn(500, 2, 3, 8).to(dtype), torch.randn(500, 2, 8).to(dtype)

    def run() -> tuple[Tensor, Tensor]:
        joint = given.clone().requires_grad_()
        output = attention_compiled.attend(joint, None, [(3, 70), (1, 40), (5, 50)])
        places = torch.arange(0, 500, 7)
        some = attention_compiled.attend_few(
            joint[places, :, 0], joint[:, :, 1:], None, [(3, 70), (1, 40), (5, 50)], places
        )
        output.backward(upstream)
        some.backward(upstream[:72])
        assert joint.grad is not None
        return torch.cat((output, some)), joint.grad

    alone = run()
    torch.set_num_threads(4)
    assert all(torch.equal(a, b) for a, b in zip(alone, run(), strict=True))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_compiled_attention_hides_no_number_that_is_not_finite(dtype: torch.dtype, broken: float, part: int):
    given = torch.zeros(40, 2, 3, 8, dtype=dtype)
    given[..., 0] = 1
    given[25, 1, part, 0] = broken
    output = attention_compiled.attend(given, None, [(2, 20)])
    assert not output[20:, 1].isfinite().all()
    assert output[:20].isfinite().all()
    assert output[:, 0].isfinite().all()


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
