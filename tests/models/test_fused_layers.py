"""Fused layers in C, in float32 and in bfloat16, are PyTorch's layers, with all gradients and no larger error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.config import ModelConfig
from proteinlm.models import fused_layers, narrow_layers
from proteinlm.models.attention import boundaries
from proteinlm.models.backbone import Block, GatedFeedForward
from proteinlm.models.kernels.compiler import has_avx512, has_bf16_products

KINDS = ("project", "add_linear", "feed_forward")
FORMS = ("none", "tanh")
"""Of GELU."""


@pytest.fixture(autouse=True, params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """What is multiplied, on one thread, of any number of rows."""
    if not has_avx512():
        pytest.skip("the functions are for AVX-512")
    mixed = request.param == torch.bfloat16
    if mixed and (not has_bf16_products() or torch.cpu._is_amx_tile_supported()):
        pytest.skip("the processor's products in bfloat16 are PyTorch's")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr(fused_layers, "FEWEST", 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        yield request.param


def layers(kind: str, hidden: int, wide: int) -> tuple[Any, ...]:
    norm = nn.LayerNorm(hidden)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    up, down = nn.Linear(hidden, wide), nn.Linear(wide, hidden)
    return {"project": (norm, up), "add_linear": (up,), "feed_forward": (norm, up, down)}[kind]


def inputs(kind: str, rows: int, hidden: int, wide: int, numbers: torch.dtype) -> list[Tensor]:
    """What the layer reads, and where there is one the residual stream beside it. Neither is contiguous."""
    sizes = (hidden, wide) if kind == "add_linear" else (hidden,)
    found = [torch.randn(rows, 2 * size)[:, ::2] for size in sizes]
    if kind == "add_linear":
        found[0] = found[0].to(numbers)
    return [each.requires_grad_() for each in found]


def ours(kind: str, modules: tuple[Any, ...], x: list[Tensor], form: str = "tanh") -> Tensor:
    if kind == "project":
        norm, linear = modules
        return fused_layers.project(x[0], norm, linear.weight, linear.bias)[0]
    if kind == "add_linear":
        return fused_layers.add_linear(x[0], modules[0], x[1])
    return fused_layers.feed_forward(x[0], *modules, adds=True, approximate=form)


def pytorchs(kind: str, modules: tuple[Any, ...], x: list[Tensor], form: str) -> Tensor:
    if kind == "project":
        return modules[1](modules[0](x[0]))
    if kind == "add_linear":
        return x[1] + modules[0](x[0])
    norm, up, down = modules
    return x[0] + down(F.gelu(up(norm(x[0])), approximate=form))


def results(output: Tensor, x: list[Tensor], modules: tuple[Any, ...], upstream: Tensor) -> list[Tensor]:
    """The output and the gradients of x and of all parameters."""
    parameters = [each for module in modules for each in module.parameters()]
    return [output, *torch.autograd.grad(output, [*x, *parameters], upstream.to(output.dtype))]


@pytest.mark.parametrize(("kind", "form"), [(kind, "tanh") for kind in KINDS] + [("feed_forward", "none")])
@pytest.mark.parametrize(("rows", "hidden", "wide"), [(1, 32, 32), (7, 64, 96), (1111, 96, 320), (2001, 256, 64)])
def test_output_and_gradients_are_as_near_to_those_in_float64_as_pytorchs(
    kind: str, form: str, rows: int, hidden: int, wide: int, numbers: torch.dtype
):
    modules, x = layers(kind, hidden, wide), inputs(kind, rows, hidden, wide, numbers)
    upstream = torch.randn(rows, wide if kind != "feed_forward" else hidden).bfloat16().float()
    found = results(ours(kind, modules, x, form), x, modules, upstream)
    theirs = results(pytorchs(kind, modules, x, form), x, modules, upstream)
    exact_x, exact = [each.detach().double().requires_grad_() for each in x], tuple(m.double() for m in modules)
    with torch.autocast("cpu", enabled=False):
        expected = results(pytorchs(kind, exact, exact_x, form), exact_x, exact, upstream.double())
    assert len(found) == len(expected) == len(x) + 1 + 2 * len(modules)
    for each, other, right in zip(found, theirs, expected, strict=True):
        assert each.shape == right.shape
        error, other_error = ((y.double() - right).norm().item() for y in (each, other))
        assert error <= 1.1 * other_error + 1e-6 * right.norm().item()


def test_gelu_is_off_by_rounding_alone(numbers: torch.dtype):
    x = torch.randn(5000, 32)
    up, down = nn.Linear(32, 32), nn.Linear(32, 32)
    norm = nn.LayerNorm(32)
    with torch.no_grad():
        for each in (up, down):
            each.weight.copy_(torch.eye(32))
            each.bias.zero_()
        norm.weight.copy_(torch.full((32,), 2.5))  # norms from -9 to 9
        for form in FORMS:
            found = fused_layers.feed_forward(x, norm, up, down, adds=False, approximate=form)
            given = norm(x).double()
            error = (found - F.gelu(given, approximate=form)).abs()
            assert (error <= 6 * torch.finfo(numbers).eps * given.abs().clamp(min=1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: str, numbers: torch.dtype):
    modules, x = layers(kind, 64, 96), inputs(kind, 1500, 64, 96, numbers)
    upstream = torch.randn(1500, 64 if kind == "feed_forward" else 96)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert fused_layers.suits(x[0], *modules)
        found.append(results(ours(kind, modules, x), x, modules, upstream))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_twelve_threads_have_pieces_of_twelve_blocks(kind: str, numbers: torch.dtype):
    """Which add the gradients of weights in another order."""
    rows = 25 * fused_layers.ROWS - 1
    modules, x = layers(kind, 64, 96), inputs(kind, rows, 64, 96, numbers)
    upstream = torch.randn(rows, 64 if kind == "feed_forward" else 96)
    found = []
    for threads, piece in ((1, fused_layers.PIECE), (12, 2 * fused_layers.PIECE)):
        torch.set_num_threads(threads)
        assert fused_layers.suits(x[0], *modules)
        assert fused_layers._piece() == piece
        found.append(results(ours(kind, modules, x), x, modules, upstream))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4 * one.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_has_the_same_gradients(kind: str, numbers: torch.dtype):
    modules, x = layers(kind, 32, 64), inputs(kind, 9, 32, 64, numbers)
    upstream = torch.randn(9, 32 if kind == "feed_forward" else 64)
    again = checkpoint(lambda *each: ours(kind, modules, list(each)), *x, use_reentrant=False)
    assert isinstance(again, Tensor)
    pairs = zip(
        results(again, x, modules, upstream), results(ours(kind, modules, x), x, modules, upstream), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(("kind", "form"), [(kind, "tanh") for kind in KINDS] + [("feed_forward", "none")])
def test_what_is_not_a_number_stays_in_its_row(kind: str, form: str, numbers: torch.dtype):
    modules, x = layers(kind, 32, 64), inputs(kind, 200, 32, 64, numbers)
    with torch.no_grad():
        x[0][101, 3] = float("nan")
        output = ours(kind, modules, x, form)
    assert output.isnan().any(dim=1).nonzero().flatten().tolist() == [101]
    assert output[101].isnan().all()


def test_without_the_residual_sum_the_rest_is_the_same(numbers: torch.dtype):
    modules, x = layers("feed_forward", 32, 64), inputs("feed_forward", 200, 32, 64, numbers)[0]
    upstream = torch.randn(200, 32)
    whole = results(fused_layers.feed_forward(x, *modules, adds=True, approximate="tanh"), [x], modules, upstream)
    alone = results(fused_layers.feed_forward(x, *modules, adds=False, approximate="tanh"), [x], modules, upstream)
    torch.testing.assert_close(alone[0] + x, whole[0])
    torch.testing.assert_close(alone[1] + upstream, whole[1])
    assert all(torch.equal(*pair) for pair in zip(alone[2:], whole[2:], strict=True))


def test_the_gradient_of_what_else_is_computed_of_x_is_added(numbers: torch.dtype):
    (norm, linear), x = layers("project", 32, 64), inputs("project", 200, 32, 64, numbers)[0]
    upstream, more = torch.randn(200, 64).to(numbers), torch.randn(200, 32)
    output, same = fused_layers.project(x, norm, linear.weight, linear.bias)
    assert torch.equal(same, x)
    (alone,) = torch.autograd.grad(output, x, upstream, retain_graph=True)
    (other,) = torch.autograd.grad(same, x, more, retain_graph=True)
    (both,) = torch.autograd.grad([output, same], x, [upstream, more])
    assert torch.equal(other, more)
    torch.testing.assert_close(both, alone + more)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("wanted", [None, torch.arange(100) * 2])
@pytest.mark.parametrize("feed_forward", ["gelu", "gated"])
@pytest.mark.parametrize("form", FORMS)
def test_a_block_is_the_same_with_them_and_without(
    feed_forward: str,
    form: str,
    wanted: Tensor | None,
    dropout: float,
    numbers: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(narrow_layers, "suits", lambda *_: False)
    block = Block(ModelConfig(64, 1, 4, dropout=dropout, feed_forward=feed_forward))
    block.feed_forward.approximate = form
    where = boundaries(torch.tensor([0, 90, 210], dtype=torch.int32), 120, numbers)
    x, upstream = torch.randn(210, 64, requires_grad=True), torch.randn(210 if wanted is None else 100, 64)
    calls = []
    for name in KINDS:
        function: Callable[..., Tensor] = getattr(fused_layers, name)
        monkeypatch.setattr(fused_layers, name, lambda *a, f=function, n=name, **k: (calls.append(n), f(*a, **k))[1])
    found = _of_block(block, x, where, wanted, upstream)
    projected = ["project"] * (1 if wanted is None else 2)  # queries of the wanted rows, keys and values of all
    assert calls == [*projected, "add_linear"] + ["feed_forward"] * (feed_forward == "gelu")
    monkeypatch.setattr(fused_layers, "suits", lambda *_: False)
    for each, theirs in zip(found, _of_block(block, x, where, wanted, upstream), strict=True):
        assert (each - theirs).norm() <= (0.01 if numbers == torch.bfloat16 else 1e-5) * theirs.norm()


def _of_block(block: Block, x: Tensor, where: Any, wanted: Tensor | None, upstream: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    output = block(x, where, wanted)
    return [output, *torch.autograd.grad(output, [x, *block.parameters()], upstream)]


def test_layers_that_are_more_than_themselves_are_pytorchs(numbers: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    modules, x = layers("feed_forward", 64, 96), torch.randn(210, 64, requires_grad=True)
    for module in modules:
        handle = module.register_forward_hook(lambda *_: None)
        assert not fused_layers.suits(x, *modules)
        handle.remove()
    assert fused_layers.suits(x, *modules)
    assert not fused_layers.suits(x.bfloat16(), *modules)
    assert not fused_layers.suits(x, *layers("feed_forward", 64, 80))
    modules[1].weight.requires_grad_(False)  # its gradient would be computed in vain
    assert not fused_layers.suits(x, *modules)
    with torch.no_grad():
        assert fused_layers.suits(x, *modules)
        with torch.autocast("cpu", torch.float16):
            assert not fused_layers.suits(x, *modules)
        torch.set_num_threads(2)  # for two pieces of work
        assert not fused_layers.suits(x, *modules)
        torch.set_num_threads(1)
        monkeypatch.setattr(fused_layers, "FEWEST", len(x) + 1)
        assert fused_layers.suits(x, *modules) == (numbers == torch.bfloat16)
        monkeypatch.setattr(fused_layers, "FEWEST", len(x))
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        assert fused_layers.suits(x, *modules) == (numbers == torch.float32)
        monkeypatch.setattr(fused_layers, "has_avx512", lambda: False)
        assert not fused_layers.suits(x, *modules)


def test_gated_networks_are_not_of_the_usual_form():
    assert not GatedFeedForward(ModelConfig(64, 1, 4)).is_usual


@pytest.mark.parametrize("rows", [1, 4, 5, 12, 17, 400])
def test_a_matrix_that_is_packed_once_multiplies_as_pytorch(rows: int, numbers: torch.dtype):
    matrix, x = torch.randn(70, 45).to(numbers), torch.randn(rows, 90)[:, ::2].to(numbers)
    with torch.no_grad():
        multiply = fused_layers.packed_multiplication(matrix)
        assert multiply is not None
        found = multiply(x)
        torch.set_num_threads(3)
        assert torch.equal(multiply(x), found)
    right = x.double() @ matrix.double().T
    assert found.dtype == numbers
    assert found.shape == right.shape
    assert (found - right).norm() <= 2 * torch.finfo(numbers).eps * right.norm()


def test_what_no_packed_matrix_multiplies(numbers: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    matrix = torch.randn(32, 32).to(numbers)
    assert fused_layers.packed_multiplication(matrix) is None  # its gradient may be wanted
    with torch.no_grad():
        assert fused_layers.packed_multiplication(matrix) is not None
        assert fused_layers.packed_multiplication(matrix.double()) is None
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        assert (fused_layers.packed_multiplication(matrix) is None) == (numbers == torch.bfloat16)
        monkeypatch.setattr(fused_layers, "has_avx512", lambda: False)
        assert fused_layers.packed_multiplication(matrix) is None
