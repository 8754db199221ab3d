"""What tokens have in common before the first block is computed once, and changes neither states nor gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from proteinlm.config import ModelConfig
from proteinlm.models import repeated_rows
from proteinlm.models.backbone import Backbone
from proteinlm.models.kernels.compiler import load_kernels

CONFIG = ModelConfig(64, 2, 4, dropout=0.0)
LENGTHS = [5, 40, 41, 90, 90]
pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C compiler")


def batch() -> tuple[Tensor, Tensor, int]:
    torch.manual_seed(1)
    tokens = torch.randint(4, 24, (sum(LENGTHS),))
    return tokens, torch.tensor([0, *LENGTHS]).cumsum(0).int(), max(LENGTHS)


def run(config: ModelConfig, bf16: bool, wanted: Tensor | None) -> tuple[int, list[Tensor]]:
    """Rows of the first block's input, and the states with the gradients of all parameters."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    backbone, rows = Backbone(config), []
    backbone.blocks[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        states = backbone(*batch(), wanted)
    states.square().sum().backward()
    return rows[0], [states.detach(), *(each.grad for each in backbone.parameters() if each.grad is not None)]


@pytest.mark.parametrize("wanted", [None, torch.arange(0, sum(LENGTHS), 7)])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_states_and_gradients_are_the_same(
    positions: str, bf16: bool, layers: int, wanted: Tensor | None, monkeypatch: pytest.MonkeyPatch
):
    config = replace(CONFIG, positions=positions, num_layers=layers)
    monkeypatch.setattr(repeated_rows, "WORTH", 0.1)
    rows, found = run(config, bf16, wanted)
    monkeypatch.setattr(repeated_rows, "WORTH", 1e9)
    every, expected = run(config, bf16, wanted)
    assert every >= sum(LENGTHS)
    assert rows == every if layers == 1 else rows < (30 if positions == "rotary" else sum(LENGTHS))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= (0.02 if bf16 else 1e-5) * theirs.norm()


def test_with_dropout_all_rows_are_different():
    config = replace(CONFIG, hidden_size=128, positions="rotary")
    assert run(config, False, None)[0] < sum(LENGTHS)
    assert run(replace(config, dropout=0.1), False, None)[0] == sum(LENGTHS)


def test_few_repeated_rows_are_not_worth_it():
    kinds = torch.arange(100)
    assert repeated_rows.find(kinds, 512) is None
    assert repeated_rows.find(kinds // 2, 128) is None
    assert repeated_rows.find(kinds // 2, 200) is None  # not a multiple
    found = repeated_rows.find(kinds // 2, 256)
    assert found is not None
    assert torch.equal(kinds[found.first][found.row], kinds // 2 * 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_row_are_summed_in_float32(dtype: torch.dtype, threads: int):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    kinds = torch.randint(0, 7, (1000,))
    repeated = repeated_rows.find(kinds, 192)
    assert repeated is not None
    x, upstream = torch.randn(7, 192).to(dtype).requires_grad_(), torch.randn(1000, 192).to(dtype)
    output = repeated_rows.spread(x, repeated)
    assert torch.equal(output, x[kinds])
    output.backward(upstream)
    exact = torch.zeros(7, 192, dtype=torch.float64).index_add(0, kinds, upstream.double())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, exact.to(dtype), atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 2**-7)
