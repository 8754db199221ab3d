"""The ten full shapes on one NVIDIA GPU: share of its peak, and tokens per second beside transformers' padded path.

bf16, compiled blocks, random letters with lengths like Pfam's, no padding counted; needs no data and no download. Shapes
for which time runs out are left out, and said so.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from experiments.bench import peers, train, workload
from experiments.bench.figures import Figure
from experiments.table7.published import TABLE7
from proteinlm import optim, planner
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.data.batches.masking import Masked
from proteinlm.errors import InputError
from proteinlm.parallel.recompute import recompute

WANTED = {512: 0.28, 768: 0.34, 1024: 0.42, 2048: 0.52, 3072: 0.57}
"""Share of the peak by hidden size."""
WARMING, TIMED = 3, 10
LONGEST = 1023


class Steps(NamedTuple):
    """What a shape was measured with."""

    config: ModelConfig
    seconds: float
    """Median over steps."""
    tokens: int
    flops: float
    memory: int
    """Bytes at most allocated."""


def shapes() -> Iterator[ModelConfig]:
    """The rows of Table 7, the narrowest first."""
    for name in sorted(TABLE7, key=lambda name: int(name.split("-")[1])):
        hidden, layers, heads = (int(part) for part in name.split("-")[1::2])
        yield ModelConfig(hidden, layers, heads, dropout=0.0)


def gpu(limit: float, only: tuple[int, ...] = ()) -> list[Figure]:
    """All shapes, or those of some hidden sizes, in at most `limit` seconds."""
    if not torch.cuda.is_available():
        raise InputError("bench gpu: torch finds no CUDA device")
    properties = torch.cuda.get_device_properties()
    hardware = planner.gpu(properties.name, properties.total_memory)
    began, figures = time.monotonic(), [Figure("memory", properties.total_memory / 1e9, "GB")]
    torch.set_float32_matmul_precision("high")
    figures += beside_peers()
    for config in shapes():
        if only and config.hidden_size not in only:
            continue
        name = f"{config.hidden_size} x {config.num_layers}, {config.num_heads} heads"
        if time.monotonic() - began > limit:
            print(f"{name}: left out, no time left", file=sys.stderr)
            continue
        one = measure(config, budget=16_384 if config.hidden_size > 2048 else 32_768)
        rate = one.flops / one.seconds
        figures.append(Figure(f"{name}: tokens", one.tokens / one.seconds, "tokens/s"))
        figures.append(Figure(f"{name}: rate", rate / 1e12, "TFLOP/s"))
        figures.append(Figure(f"{name}: memory", one.memory / 1e9, "GB"))
        if hardware.peak:
            wanted = f"at least {WANTED[config.hidden_size]}"
            figures.append(Figure(f"{name}: share of the peak", rate / hardware.peak, "", wanted))
        print(f"{name}: {one.tokens / one.seconds:,.0f} tokens/s", file=sys.stderr, flush=True)
    return figures


def measure(config: ModelConfig, budget: int, recomputed: bool = False) -> Steps:
    """Median training step on one micro-batch of about `budget` tokens; activations are recomputed if memory asks for it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        model = train.Ours(config).cuda()
        optimizer, _ = optim.build(model, OptimConfig(), 1000, config)
        for block in model.backbone.blocks:
            if recomputed:
                recompute(block)
            block.compile(dynamic=True)
        batches = packed(budget, WARMING + TIMED)

        def step(batch: Masked) -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(batch) / len(batch.targets)
            loss.backward()
            optim.clip(model.parameters(), 1.0)
            optimizer.step()

        seconds = statistics.median(times(step, batches))
    except torch.cuda.OutOfMemoryError:
        if recomputed:
            raise
        return measure(config, budget, recomputed=True)
    timed_batches = batches[WARMING:]
    tokens = sum(len(batch.packed.tokens) for batch in timed_batches)
    squares = sum(int(batch.packed.starts.diff().long().square().sum()) for batch in timed_batches)
    flops = config.training_flops(tokens, squares, sum(len(batch.targets) for batch in timed_batches))
    return Steps(config, seconds, tokens // TIMED, flops / TIMED, torch.cuda.max_memory_allocated())


def beside_peers() -> list[Figure]:
    """1024 x 12: the same proteins, padded to the longest of 32, as given and sorted by length."""
    config = ModelConfig(1024, 12, 16, dropout=0.0)
    ours = measure(config, 32_768)
    speed = ours.tokens / ours.seconds
    figures = [Figure("1024 x 12: proteinlm", speed, "tokens/s")]
    sample = workload.proteins(32 * (WARMING + TIMED), LONGEST, None)
    tokens = sum(len(letters) + 1 for letters in sample)
    makers: dict[str, Callable[[ModelConfig], Any]] = {
        "MegatronBertForMaskedLM": peers.megatron_bert,
        "EsmForMaskedLM": peers.esm,
    }
    for name, make in makers.items():
        for by_length in (False, True):
            batches = [
                workload.Padded(*(tensor.cuda() for tensor in batch))
                for batch in workload.padded_batches(sample, 32, by_length)
            ]
            model: nn.Module = make(config).cuda().train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

            def step(batch: workload.Padded, model: nn.Module = model, optimizer: Any = optimizer) -> None:
                optimizer.zero_grad()
                with torch.autocast("cuda", torch.bfloat16):
                    loss = peers.loss(model, batch)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()

            for batch in batches[:WARMING]:
                step(batch)
            taken = sum(times(step, batches, warming=0))
            what = f"{name}, padded{', sorted by length' if by_length else ''}"
            figures.append(Figure(what, tokens / taken, "tokens/s"))
            target = "at least 3" if not by_length else ""
            figures.append(Figure(f"proteinlm / {what}", speed * taken / tokens, "times", target))
    return figures


def packed(budget: int, count: int) -> list[Masked]:
    """`count` micro-batches of at most `budget` tokens, on the GPU."""
    samples = workload.samples(count, budget, LONGEST, None)
    return [_moved(batch) for sample in samples for batch in workload.packed_steps(sample, budget)]


def times(step: Callable[[Any], None], batches: list[Any], warming: int = WARMING) -> list[float]:
    """Seconds of each step after the first `warming`, by the GPU's clock, without waiting in between."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(batches) + 1)]
    marks[0].record()
    for batch, mark in zip(batches, marks[1:], strict=True):
        step(batch)
        mark.record()
    torch.cuda.synchronize()
    return [one.elapsed_time(two) / 1000 for one, two in pairwise(marks)][warming:]


def _moved(batch: Masked) -> Masked:
    own = batch.packed._replace(tokens=batch.packed.tokens.cuda(), starts=batch.packed.starts.cuda())
    return batch._replace(packed=own, positions=batch.positions.cuda(), targets=batch.targets.cuda())
