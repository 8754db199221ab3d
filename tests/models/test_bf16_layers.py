"""Layers in bfloat16 by functions in C are PyTorch's layers, with all gradients and no larger error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.config import ModelConfig
from proteinlm.models import bf16_layers
from proteinlm.models.attention import boundaries
from proteinlm.models.backbone import Block, GatedFeedForward
from proteinlm.models.kernels.compiler import has_bf16_products

pytestmark = pytest.mark.skipif(
    not has_bf16_products() or torch.cpu._is_amx_tile_supported(), reason="the processor's products are PyTorch's"
)

KINDS = ("project", "add_linear", "feed_forward")


@pytest.fixture(autouse=True)
def _one_thread_in_bf16():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.autocast("cpu", torch.bfloat16):
        yield


def layers(kind: str, hidden: int, wide: int) -> tuple[Any, ...]:
    norm = nn.LayerNorm(hidden)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    up, down = nn.Linear(hidden, wide), nn.Linear(wide, hidden)
    return {"project": (norm, up), "add_linear": (up,), "feed_forward": (norm, up, down)}[kind]


def inputs(kind: str, rows: int, hidden: int, wide: int) -> list[Tensor]:
    """What the layer reads, and where there is one the residual stream beside it. Neither is contiguous."""
    sizes = (hidden, wide) if kind == "add_linear" else (hidden,)
    found = [torch.randn(rows, 2 * size)[:, ::2] for size in sizes]
    if kind == "add_linear":
        found[0] = found[0].bfloat16()
    return [each.requires_grad_() for each in found]


def ours(kind: str, modules: tuple[Any, ...], x: list[Tensor]) -> Tensor:
    if kind == "project":
        return bf16_layers.project(x[0], *modules)[0]
    if kind == "add_linear":
        return bf16_layers.add_linear(x[0], modules[0], x[1])
    return bf16_layers.feed_forward(x[0], *modules, adds=True)


def pytorchs(kind: str, modules: tuple[Any, ...], x: list[Tensor]) -> Tensor:
    if kind == "project":
        return modules[1](modules[0](x[0]))
    if kind == "add_linear":
        return x[1] + modules[0](x[0])
    norm, up, down = modules
    return x[0] + down(F.gelu(up(norm(x[0])), approximate="tanh"))


def results(output: Tensor, x: list[Tensor], modules: tuple[Any, ...], upstream: Tensor) -> list[Tensor]:
    """The output and the gradients of x and of all parameters."""
    parameters = [each for module in modules for each in module.parameters()]
    return [output, *torch.autograd.grad(output, [*x, *parameters], upstream.to(output.dtype))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "hidden", "wide"), [(1, 32, 32), (7, 64, 96), (1111, 96, 320), (2001, 256, 64)])
def test_output_and_gradients_are_as_near_to_those_in_float64_as_pytorchs(kind: str, rows: int, hidden: int, wide: int):
    modules, x = layers(kind, hidden, wide), inputs(kind, rows, hidden, wide)
    upstream = torch.randn(rows, wide if kind != "feed_forward" else hidden).bfloat16().float()
    found = results(ours(kind, modules, x), x, modules, upstream)
    theirs = results(pytorchs(kind, modules, x), x, modules, upstream)
    exact_x, exact = [each.detach().double().requires_grad_() for each in x], tuple(m.double() for m in modules)
    with torch.autocast("cpu", enabled=False):
        expected = results(pytorchs(kind, exact, exact_x), exact_x, exact, upstream.double())
    assert len(found) == len(expected) == len(x) + 1 + 2 * len(modules)
    for each, other, right in zip(found, theirs, expected, strict=True):
        assert each.shape == right.shape
        error, other_error = ((y.double() - right).norm().item() for y in (each, other))
        assert error <= 1.1 * other_error + 1e-6 * right.norm().item()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: str):
    modules, x = layers(kind, 64, 96), inputs(kind, 1500, 64, 96)
    upstream = torch.randn(1500, 64 if kind == "feed_forward" else 96)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert bf16_layers.suits(x[0], *modules)
        found.append(results(ours(kind, modules, x), x, modules, upstream))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_has_the_same_gradients(kind: str):
    modules, x = layers(kind, 32, 64), inputs(kind, 9, 32, 64)
    upstream = torch.randn(9, 32 if kind == "feed_forward" else 64)
    again = checkpoint(lambda *each: ours(kind, modules, list(each)), *x, use_reentrant=False)
    assert isinstance(again, Tensor)
    pairs = zip(
        results(again, x, modules, upstream), results(ours(kind, modules, x), x, modules, upstream), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_stays_in_its_row(kind: str):
    modules, x = layers(kind, 32, 64), inputs(kind, 200, 32, 64)
    with torch.no_grad():
        x[0][101, 3] = float("nan")
        output = ours(kind, modules, x)
    assert output.isnan().any(dim=1).nonzero().flatten().tolist() == [101]
    assert output[101].isnan().all()


def test_without_the_residual_sum_the_rest_is_the_same():
    modules, x = layers("feed_forward", 32, 64), inputs("feed_forward", 200, 32, 64)[0]
    upstream = torch.randn(200, 32)
    whole = results(bf16_layers.feed_forward(x, *modules, adds=True), [x], modules, upstream)
    alone = results(bf16_layers.feed_forward(x, *modules, adds=False), [x], modules, upstream)
    torch.testing.assert_close(alone[0] + x, whole[0])
    torch.testing.assert_close(alone[1] + upstream, whole[1])
    assert all(torch.equal(*pair) for pair in zip(alone[2:], whole[2:], strict=True))


def test_the_gradient_of_what_else_is_computed_of_x_is_added():
    modules, x = layers("project", 32, 64), inputs("project", 200, 32, 64)[0]
    upstream, more = torch.randn(200, 64).bfloat16(), torch.randn(200, 32)
    output, same = bf16_layers.project(x, *modules)
    assert torch.equal(same, x)
    (alone,) = torch.autograd.grad(output, x, upstream, retain_graph=True)
    (other,) = torch.autograd.grad(same, x, more, retain_graph=True)
    (both,) = torch.autograd.grad([output, same], x, [upstream, more])
    assert torch.equal(other, more)
    torch.testing.assert_close(both, alone + more)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("wanted", [None, torch.arange(100) * 2])
@pytest.mark.parametrize("feed_forward", ["gelu", "gated"])
def test_a_block_is_the_same_with_them_and_without(
    feed_forward: str, wanted: Tensor | None, dropout: float, monkeypatch: pytest.MonkeyPatch
):
    block = Block(ModelConfig(64, 1, 4, dropout=dropout, feed_forward=feed_forward))
    where = boundaries(torch.tensor([0, 90, 210], dtype=torch.int32), 120, torch.bfloat16)
    x, upstream = torch.randn(210, 64, requires_grad=True), torch.randn(210 if wanted is None else 100, 64)
    calls = []
    for name in KINDS:
        function: Callable[..., Tensor] = getattr(bf16_layers, name)
        monkeypatch.setattr(bf16_layers, name, lambda *a, f=function, n=name, **k: (calls.append(n), f(*a, **k))[1])
    found = _of_block(block, x, where, wanted, upstream)
    assert calls == ["project", "add_linear"] + ["feed_forward"] * (feed_forward == "gelu")
    monkeypatch.setattr(bf16_layers, "suits", lambda *_: False)
    for each, theirs in zip(found, _of_block(block, x, where, wanted, upstream), strict=True):
        assert (each - theirs).norm() <= 0.01 * theirs.norm()


def _of_block(block: Block, x: Tensor, where: Any, wanted: Tensor | None, upstream: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    output = block(x, where, wanted)
    return [output, *torch.autograd.grad(output, [x, *block.parameters()], upstream)]


def test_layers_that_are_more_than_themselves_are_pytorchs(monkeypatch: pytest.MonkeyPatch):
    modules, x = layers("feed_forward", 64, 96), torch.randn(210, 64, requires_grad=True)
    for module in modules:
        handle = module.register_forward_hook(lambda *_: None)
        assert not bf16_layers.suits(x, *modules)
        handle.remove()
    assert bf16_layers.suits(x, *modules)
    assert not bf16_layers.suits(x.bfloat16(), *modules)
    assert not bf16_layers.suits(x, *layers("feed_forward", 64, 80))
    modules[1].weight.requires_grad_(False)  # its gradient would be computed in vain
    assert not bf16_layers.suits(x, *modules)
    with torch.no_grad():
        assert bf16_layers.suits(x, *modules)
        with torch.autocast("cpu", enabled=False):
            assert not bf16_layers.suits(x, *modules)
        with torch.autocast("cpu", torch.float16):
            assert not bf16_layers.suits(x, *modules)
        torch.set_num_threads(2)  # for two pieces of work
        assert not bf16_layers.suits(x, *modules)
        torch.set_num_threads(1)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        assert not bf16_layers.suits(x, *modules)


def test_gated_networks_are_not_of_the_usual_form():
    assert not GatedFeedForward(ModelConfig(64, 1, 4)).is_usual
