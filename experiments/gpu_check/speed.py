"""How fast the machine is: the shapes of Table 7 beside transformers' padded path, and a pretraining of minutes."""

import csv
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from experiments.bench import shapes as timed
from experiments.gpu_check.correctness import run_config
from experiments.gpu_check.record import Finding
from experiments.gpu_check.sizes import Sizes
from proteinlm import planner
from proteinlm.config import ModelConfig, StrategyConfig
from proteinlm.models.attention import attend, boundaries
from proteinlm.training import pretraining

CURVE_POINTS = 20


def shapes(sizes: Sizes) -> Iterator[Finding]:
    """Tokens per second, share of the peak, memory and the share of attention at each shape, the narrowest first."""
    torch.set_float32_matmul_precision("high")
    peak = _peak(sizes.device)
    for config in sizes.shapes:
        name = f"{config.hidden_size} x {config.num_layers}, {config.num_heads} heads"
        budget = sizes.timed_tokens // 2 if config.hidden_size > 2048 else sizes.timed_tokens
        one = timed.measure(config, budget, sizes.device, sizes.longest, sizes.compiler)
        yield Finding(f"{name}: speed", one.tokens / one.seconds, "tokens/s")
        yield Finding(f"{name}: rate", one.flops / one.seconds / 1e12, "TFLOP/s")
        if peak:
            yield Finding(f"{name}: share of the peak", one.flops / one.seconds / peak)
        if one.memory:
            yield Finding(f"{name}: memory", one.memory / 1e9, "GB")
        share = attention_seconds(config, budget, sizes) / one.seconds
        yield Finding(f"{name}: share of the step that attention takes", share)


def peers(sizes: Sizes) -> Iterator[Finding]:
    """The widest shape that was asked for up to hidden 1024 beside transformers on the same proteins."""
    torch.set_float32_matmul_precision("high")
    config = next(one for one in reversed(sizes.shapes) if one.hidden_size <= 1024)
    for figure in timed.beside_peers(config, sizes.timed_tokens, sizes.device, sizes.longest, sizes.compiler):
        yield Finding(figure.what, figure.value, figure.unit)


def pretraining_run(sizes: Sizes) -> Iterator[Finding]:
    """A pretraining of `run_seconds` on the embedded universe: speed, loss curve, perplexity."""
    with TemporaryDirectory() as place:
        trial = run_config(sizes, Path(place), "trial", StrategyConfig())
        began = time.monotonic()
        pretraining.run(trial)
        began, spent = time.monotonic(), time.monotonic() - began
        steps = max(4, int(sizes.run_seconds / (spent / trial.train.steps)))
        budget = replace(trial.train, tokens=steps * trial.train.step_tokens, checkpoint_seconds=30.0)
        config = replace(trial, name="run", train=budget)
        result = pretraining.run(config)
        yield Finding("parameters", float(result.parameters))
        yield Finding("tokens", float(result.tokens))
        yield Finding("seconds of training", result.seconds, "s")
        yield Finding("speed", result.tokens / result.seconds, "tokens/s")
        curve = loss_curve(pretraining.directory_of(config) / "metrics.csv")
        for step, loss in curve[:: max(1, len(curve) // CURVE_POINTS)]:
            yield Finding(f"loss after step {step}", loss, "nats")
        for score in result.scores:
            yield Finding(f"perplexity, {score.split}", score.value, most=sizes.run_perplexity)
        yield Finding("from command to result", time.monotonic() - began, "s")


def loss_curve(file: Path) -> list[tuple[int, float]]:
    """Steps and training losses in a run's ``metrics.csv``."""
    with file.open(newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) == 3]
    return [(int(step), float(value)) for step, name, value in rows if name == "train/loss"]


def attention_seconds(config: ModelConfig, budget: int, sizes: Sizes) -> float:
    """Seconds that attention of all layers takes forward and backward in one micro-batch, alone; the median."""
    batches = timed.packed(budget, timed.WARMING + timed.TIMED, sizes.device, sizes.longest)

    def step(batch: timed.Masked) -> None:
        where = boundaries(batch.packed.starts, batch.packed.longest, torch.bfloat16)
        shape = (len(batch.packed.tokens), config.num_heads, 3, config.head_dim)
        joint: Tensor = torch.randn(shape, device=sizes.device, dtype=torch.bfloat16, requires_grad=True)
        output = attend(joint, where)
        output.backward(output.detach())

    return config.num_layers * statistics.median(timed.times(step, batches, sizes.device))


def _peak(device: torch.device) -> float | None:
    """FLOP/s of bf16 products by the maker's sheet, where the planner knows the GPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties()
    return planner.gpu(properties.name, properties.total_memory).peak
