"""Layers of narrow blocks by functions in C are PyTorch's layers, with all gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.config import ModelConfig
from proteinlm.models import narrow_layers
from proteinlm.models.attention import boundaries
from proteinlm.models.backbone import Block


def layers(hidden: int, wide: int) -> tuple[Any, ...]:
    torch.manual_seed(0)
    norm = nn.LayerNorm(hidden)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.Linear(hidden, wide), nn.Linear(wide, hidden)


def results(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, modules: tuple[nn.Module, ...]):
    """The output and the gradients of x and of all parameters."""
    parameters = [each for module in modules for each in module.parameters()]
    output = function(x)
    return [output, *torch.autograd.grad(output, [x, *parameters], upstream)]


def assert_close(found: list[Tensor], expected: list[Tensor], count: int):
    assert len(found) == len(expected) == count
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


def test_a_block_that_is_computed_again_has_the_same_gradients():
    modules = layers(32, 64)
    torch.set_num_threads(1)
    x = torch.randn(9, 32, requires_grad=True)
    upstream = torch.randn(9, 32)

    def whole(x: Tensor) -> Tensor:
        return narrow_layers.add_feed_forward(x, *modules)

    again = results(lambda x: checkpoint(whole, x, use_reentrant=False), x, upstream, modules)
    for found, expected in zip(again, results(whole, x, upstream, modules), strict=True):
        assert torch.equal(found, expected)


def project(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    return narrow_layers.project(x, norm, linear.weight, linear.bias)


@pytest.mark.parametrize(
    ("rows", "hidden", "wide"), [(0, 32, 128), (1, 16, 64), (7, 48, 192), (1111, 80, 304), (513, 256, 32)]
)
@pytest.mark.parametrize("whole", [True, False])
def test_output_and_gradients_are_those_of_the_layers_in_float64(rows: int, hidden: int, wide: int, whole: bool):
    """Of the feed-forward half as a `whole`, and of a norm with the linear layer after it."""
    modules = layers(hidden, wide)[: 3 if whole else 2]
    # every other column, so that neither is contiguous
    x, upstream = (torch.randn(rows, 2 * size)[:, ::2] for size in (hidden, hidden if whole else wide))
    x.requires_grad_()
    torch.set_num_threads(1)
    assert narrow_layers.suits(x, *modules)
    compiled = narrow_layers.add_feed_forward if whole else project
    found = results(lambda x: compiled(x, *modules), x, upstream, modules)
    exact = tuple(module.double() for module in modules)

    def reference(x: Tensor) -> Tensor:
        norm, up, *down = exact
        return x + down[0](F.gelu(up(norm(x)), approximate="tanh")) if whole else up(norm(x))

    expected = results(reference, x.detach().double().requires_grad_(), upstream.double(), exact)
    assert_close(found, expected, 8 if whole else 6)


@pytest.mark.parametrize("compiled", [narrow_layers.add_feed_forward, project])
def test_threads_change_no_bit(compiled: Callable[..., Tensor]):
    modules = layers(48, 48)[: 3 if compiled is narrow_layers.add_feed_forward else 2]
    x, upstream = torch.randn(3100, 48, requires_grad=True), torch.randn(3100, 48)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert narrow_layers.suits(x, *modules)
        found.append(results(lambda x: compiled(x, *modules), x, upstream, modules))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_what_is_not_a_number_stays_in_its_row():
    modules = layers(32, 64)
    x = torch.randn(200, 32)
    x[101, 3] = float("nan")
    with torch.no_grad():
        output = narrow_layers.add_feed_forward(x, *modules)
    assert output.isnan().any(dim=1).nonzero().flatten().tolist() == [101]
    assert output[101].isnan().all()


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Block(ModelConfig(64, 1, 4, dropout=0.3)).eval()


@pytest.mark.parametrize("wanted", [None, torch.tensor([0, 5, 69])])
def test_a_block_is_the_same_with_them_and_without(
    block: Block, wanted: Tensor | None, monkeypatch: pytest.MonkeyPatch
):
    starts = torch.tensor([0, 30, 70], dtype=torch.int32)
    where = boundaries(starts, 40, torch.float32)
    x, upstream = torch.randn(70, 64, requires_grad=True), torch.randn(70 if wanted is None else 3, 64)
    assert suits(block, x)
    parameters = [x, *block.parameters()]
    output = block(x, where, wanted)
    found = [output, *torch.autograd.grad(output, parameters, upstream)]
    with torch.no_grad():
        assert torch.equal(block(x, where, wanted), output)
    monkeypatch.setattr(narrow_layers, "suits", lambda *_: False)
    output = block(x, where, wanted)
    for ours, theirs in zip(found, [output, *torch.autograd.grad(output, parameters, upstream)], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def suits(block: Block, x: Tensor) -> bool:
    """Whether the function in C computes the second half of `block`."""
    network = block.feed_forward
    return network.is_usual and narrow_layers.suits(x, block.feed_forward_norm, network.up, network.down)


def test_layers_that_are_more_than_themselves_are_called(block: Block):
    x = torch.randn(70, 64, requires_grad=True)
    norm, network = block.feed_forward_norm, block.feed_forward
    for module in (norm, network, network.up, network.down):
        handle = module.register_forward_hook(lambda *_: None)
        assert not suits(block, x)
        handle.remove()
    assert suits(block, x)
    network.up.weight.requires_grad_(False)  # its gradient would be computed in vain
    assert not suits(block, x)
    with torch.no_grad():
        assert suits(block, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert not suits(block, x)
        assert not suits(block, x.bfloat16())
        torch.set_num_threads(2)  # for one piece of work
        assert not suits(block, x)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(40, 1, 4, dropout=0.0),
        ModelConfig(64, 1, 4, dropout=0.0, feed_forward="gated"),
    ],
)
def test_networks_of_another_form_are_pytorchs(config: ModelConfig):
    torch.set_num_threads(1)
    block = Block(config)
    assert not suits(block, torch.randn(70, config.hidden_size))


def test_dropout_is_pytorchs(block: Block, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Tensor:
        raise AssertionError("dropout comes before the sum")

    monkeypatch.setattr(narrow_layers, "add_feed_forward", refuse)
    where = boundaries(torch.tensor([0, 70], dtype=torch.int32), 70, torch.float32)
    assert block.train()(torch.randn(70, 64), where).shape == (70, 64)
