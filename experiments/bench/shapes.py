"""A training step at the shapes of Table 7 on one device, and transformers' padded path on the same proteins.

bf16, compiled blocks, random letters with lengths like Pfam's, no padding counted; needs no data and no download.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from experiments.bench import peers, train, workload
from experiments.bench.figures import Figure, seconds_of
from experiments.table7.published import TABLE7
from proteinlm import optim
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.data.batches.fixed_shapes import FixedShapes
from proteinlm.data.batches.masking import Masked
from proteinlm.data.batches.packing import Packed
from proteinlm.parallel.cuda_graphs import StepGraphs
from proteinlm.parallel.fp8 import multiply_in_fp8
from proteinlm.parallel.recompute import recompute

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


def measure(
    config: ModelConfig,
    budget: int,
    device: torch.device,
    longest: int = LONGEST,
    compiler: str = "inductor",
    recomputed: bool = False,
    fp8: bool = False,
    replayed: bool = False,
) -> Steps:
    """Median training step on one micro-batch of about `budget` tokens; activations are recomputed if memory asks for it.

    With `fp8` the blocks multiply in fp8; if `replayed`, the passes are CUDA graphs of filled batches.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        model = train.Ours(config).to(device)
        optimizer, _ = optim.build(model, OptimConfig(), 1000, config)
        if fp8:
            multiply_in_fp8(model.backbone.blocks)
        for block in model.backbone.blocks:
            if recomputed:
                recompute(block)
            block.compile(dynamic=True, backend=compiler)
        batches = packed(budget, WARMING + TIMED, torch.device("cpu"), longest)
        filled = [FixedShapes(budget, longest + 1, 15).fill(batch) for batch in batches] if replayed else batches
        graphs = StepGraphs(loss_of(model, longest + 1), model.parameters()) if replayed else None

        def step(batch: Masked) -> None:
            if graphs:
                with torch.autocast(device.type, torch.bfloat16):
                    graphs.load(*tensors(batch))
                    graphs.forward(len(batch.targets))
                graphs.clear_gradients()
                graphs.backward()
            else:
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16):
                    loss = model(batch) / len(batch.targets)
                loss.backward()
            optim.clip(model.parameters(), 1.0)
            optimizer.step()

        seconds = statistics.median(times(step, [moved(batch, device) for batch in filled], device))
    except torch.cuda.OutOfMemoryError:
        if recomputed or replayed:
            raise
        return measure(config, budget, device, longest, compiler, recomputed=True, fp8=fp8)
    timed_batches = batches[WARMING:]
    tokens = sum(len(batch.packed.tokens) for batch in timed_batches)
    squares = sum(int(batch.packed.starts.diff().long().square().sum()) for batch in timed_batches)
    flops = config.training_flops(tokens, squares, sum(len(batch.targets) for batch in timed_batches))
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Steps(config, seconds, tokens // TIMED, flops / TIMED, memory)


def beside_peers(
    config: ModelConfig, budget: int, device: torch.device, longest: int = LONGEST, compiler: str = "inductor"
) -> list[Figure]:
    """Ours, and transformers' padded to the longest of 32 proteins, as given and sorted by length."""
    shape = f"{config.hidden_size} x {config.num_layers}"
    ours = measure(config, budget, device, longest, compiler)
    speed = ours.tokens / ours.seconds
    figures = [Figure(f"{shape}: proteinlm", speed, "tokens/s")]
    sample = workload.proteins(32 * (WARMING + TIMED), longest, None)
    tokens = sum(len(letters) + 1 for letters in sample)
    makers: dict[str, Callable[[ModelConfig], Any]] = {
        "MegatronBertForMaskedLM": peers.megatron_bert,
        "EsmForMaskedLM": peers.esm,
    }
    for name, make in makers.items():
        for by_length in (False, True):
            batches = [
                workload.Padded(*(tensor.to(device) for tensor in batch))
                for batch in workload.padded_batches(sample, 32, by_length)
            ]
            model: nn.Module = make(config).to(device).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            step = partial(_their_step, model, optimizer, device)
            for batch in batches[:WARMING]:
                step(batch)
            taken = sum(times(step, batches, device, warming=0))
            what = f"{shape}: {name}, padded{', sorted by length' if by_length else ''}"
            figures.append(Figure(what, tokens / taken, "tokens/s"))
            target = "at least 3" if not by_length else ""
            figures.append(Figure(f"proteinlm / {what}", speed * taken / tokens, "times", target))
    return figures


def _their_step(model: nn.Module, optimizer: Any, device: torch.device, batch: workload.Padded) -> None:
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16):
        loss = peers.loss(model, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def packed(budget: int, count: int, device: torch.device, longest: int = LONGEST) -> list[Masked]:
    """`count` micro-batches of at most `budget` tokens, on `device`."""
    samples = workload.samples(count, budget, longest, None)
    return [moved(batch, device) for sample in samples for batch in workload.packed_steps(sample, budget)]


def times(step: Callable[[Any], None], batches: list[Any], device: torch.device, warming: int = WARMING) -> list[float]:
    """Seconds of each step after the first `warming`; a GPU's by its own clock, without waiting in between."""
    if device.type != "cuda":
        return [seconds_of(partial(step, batch)) for batch in batches][warming:]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(batches) + 1)]
    marks[0].record()
    for batch, mark in zip(batches, marks[1:], strict=True):
        step(batch)
        mark.record()
    torch.cuda.synchronize()
    return [one.elapsed_time(two) / 1000 for one, two in pairwise(marks)][warming:]


def tensors(batch: Masked) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What varies from one filled batch to the next."""
    return batch.packed.tokens, batch.packed.starts, batch.positions, batch.targets


def loss_of(model: nn.Module, longest: int) -> Callable[..., torch.Tensor]:
    """The loss of `model` as a function of `tensors`, with proteins of at most `longest` tokens."""

    def loss(tokens: torch.Tensor, starts: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return model(Masked(Packed(tokens, starts, longest, len(starts) - 1), places, targets))

    return loss


def moved(batch: Masked, device: torch.device) -> Masked:
    """The batch on `device`."""
    own = batch.packed._replace(tokens=batch.packed.tokens.to(device), starts=batch.packed.starts.to(device))
    return batch._replace(packed=own, positions=batch.positions.to(device), targets=batch.targets.to(device))
