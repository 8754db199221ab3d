"""Batches of ever new proteins are multiplied in shapes that come again, and what fills them up changes nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proteinlm.config import ModelConfig
from proteinlm.models import shape_buckets
from proteinlm.models.backbone import Backbone, Block
from proteinlm.models.heads import LanguageModelHead
from proteinlm.models.kernels import layers
from proteinlm.models.kernels.compiler import SWITCH, has_bf16_products
from proteinlm.models.shape_buckets import MULTIPLE, bucket_size

LENGTHS = [5, 40, 41, 90]
BATCHES = 6


@pytest.mark.parametrize("steps", [8, 64])
def test_sizes_are_few_and_near(steps: int):
    sizes = range(1, 5000)
    given = [bucket_size(size, steps) for size in sizes]
    assert given == sorted(given)
    assert all(0 <= filled - size < max(MULTIPLE, size / steps) for size, filled in zip(sizes, given, strict=True))
    assert all(bucket_size(filled, steps) == filled for filled in given)
    assert len(set(given)) <= steps * 12
    assert bucket_size(0, steps) == 0


def learn(run: Callable[[Callable[[], Tensor]], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of a small model, with what `run` makes of the pass."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=32, num_layers=2, num_heads=2, dropout=0.0)
    modules = torch.nn.ModuleList((Backbone(config), LanguageModelHead(config)))
    backbone, head = modules
    tokens = torch.randint(4, 24, (sum(LENGTHS),))
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    logits = run(lambda: head(backbone(tokens, starts, max(LENGTHS))[3::7], backbone.token_embedding.weight))
    logits.float().square().sum().backward()
    return logits, {name: p.grad for name, p in modules.named_parameters() if p.grad is not None}


def in_bf16(forward: Callable[[], Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return forward()


def test_filling_changes_neither_outputs_nor_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Block, "is_fused", lambda block, rows: False)
    assert shape_buckets.padding(sum(LENGTHS), torch.device("cpu")) == 0  # in float32 no kernel is compiled for a shape
    filled, gradients = learn(in_bf16)
    monkeypatch.setattr(shape_buckets, "padding", lambda size, device: 0)
    plain, expected = learn(in_bf16)
    assert filled.shape == plain.shape
    assert (filled - plain).norm() < 1e-2 * plain.norm()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 2e-2 * expected[name].norm(), name


@pytest.mark.skipif(
    not has_bf16_products() or torch.cpu._is_amx_tile_supported(), reason="products in bfloat16 are PyTorch's here"
)
def test_what_functions_in_c_compute_is_not_filled(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    filled = []
    monkeypatch.setattr(shape_buckets, "pad_batch_to_bucket", lambda *batch: (filled.append(batch), batch[:2])[1])
    learn(in_bf16)
    assert not filled
    monkeypatch.setattr(layers, "load_kernels", lambda: None)
    learn(in_bf16)
    assert filled


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_padding_longer_than_the_longest_protein_is_cut(positions: str, monkeypatch: pytest.MonkeyPatch):
    """A batch of many tokens gets more of them than the model has positions."""
    config = ModelConfig(16, 2, 2, dropout=0.0, max_positions=max(LENGTHS), positions=positions)
    backbone = Backbone(config)
    tokens = torch.randint(4, 24, (sum(LENGTHS),))
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    plain = in_bf16(lambda: backbone(tokens, starts, max(LENGTHS)))
    rows = 2 * max(LENGTHS) + 1
    monkeypatch.setattr(shape_buckets, "padding", lambda size, device: rows)
    padded, bounds = shape_buckets.pad_batch_to_bucket(tokens, starts, max(LENGTHS))
    assert len(padded) == bounds[-1] == sum(LENGTHS) + rows
    assert bounds.diff().tolist() == [*LENGTHS, max(LENGTHS), max(LENGTHS), 1]
    found = in_bf16(lambda: backbone(tokens, starts, max(LENGTHS)))
    assert (found - plain).norm() < 1e-2 * plain.norm()


def test_new_proteins_seldom_make_a_new_kernel():
    """What oneDNN itself says that it had to compile."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU does not multiply bfloat16")
    said = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import train; train()"],
        env=os.environ | {"ONEDNN_VERBOSE": "profile_create", SWITCH: "0"},  # our own functions have no shapes
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, *_, last = said.split("batch\n")[1:]
    assert first.count("create:cache_miss") > 50
    assert last.count("create:cache_miss") < 0.2 * last.count("create:")


def train() -> None:
    """Forward and backward passes over `BATCHES` batches of random lengths."""
    draw = torch.Generator().manual_seed(1)
    config = ModelConfig(hidden_size=32, num_layers=2, num_heads=1, dropout=0.0)  # narrow heads have no oneDNN
    backbone, head = Backbone(config), LanguageModelHead(config)
    for _ in range(BATCHES):
        print("batch", flush=True)
        lengths = torch.randint(20, 400, (16,), generator=draw).sort().values
        starts = torch.cat((torch.zeros(1), lengths.cumsum(0))).int()
        tokens = torch.randint(4, 24, (int(lengths.sum()),), generator=draw)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = backbone(tokens, starts, int(lengths.max()))
            loss = head(hidden[::7], backbone.token_embedding.weight).float().square().mean()
        loss.backward()
