"""A training step of ours and of the peers on the same proteins, new ones in each round as in training: residues per
second, and the share of the machine's matrix-product rate.
"""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain, cycle, product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from experiments.bench import peers
from experiments.bench.figures import Figure, rate, ratio_of_totals, time_in_turns
from experiments.bench.workload import Padded, packed_steps, padded_batches, training_flops
from proteinlm import optim
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.data.batches.masking import Masked
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead

BATCH = 8
"""Proteins that a peer computes at once: the Trainer's default."""
WARMING = 4
"""Rounds that do not count: in bfloat16 the first steps compile kernels for the shapes that they meet."""
PRODUCT_FLOPS = 2e11
"""Of a round of matrix products: a few seconds."""
OURS = "proteinlm"
MEGATRON = "MegatronBertForMaskedLM, padded"
FP32, BF16, COMPILED = "fp32", "bf16", "bf16, compiled"
RATE = "residues/s"


class Ours(nn.Module):
    """Backbone and head as pretraining has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(config), LanguageModelHead(config)

    def forward(self, batch: Masked) -> Tensor:
        hidden = self.backbone(batch.packed.tokens, batch.packed.starts, batch.packed.longest, batch.positions)
        logits = self.head(hidden, self.backbone.token_embedding.weight)
        return F.cross_entropy(logits.float(), batch.targets, reduction="sum")


def train(config: ModelConfig, samples: list[list[np.ndarray]], bf16: bool) -> list[Figure]:
    """One optimiser step over each of `samples`, ours in one micro-batch, the peers' `BATCH` proteins at a time; the
    first `WARMING` do not count.

    With `bf16`, in bfloat16 too, and ours also with ``train.compile=true``: beside the peers as users run them, in
    float32, and beside those in bfloat16.
    """
    budget = max(sum(len(letters) + 1 for letters in sample) for sample in samples)
    packed = [packed_steps(sample, budget) for sample in samples]
    as_given, sorted_ = (
        [padded_batches(sample, BATCH, by_length) for sample in samples] for by_length in (False, True)
    )
    megatron, esm, plain = peers.megatron_bert(config), peers.esm(config), peers.PlainEncoder(config)
    peers_arms: dict[str, Callable[[bool], Callable[[], None]]] = {
        MEGATRON: partial(their_step, megatron, as_given),
        f"{MEGATRON}, sorted by length": partial(their_step, megatron, sorted_),
        "EsmForMaskedLM, padded": partial(their_step, esm, as_given),
        "EsmForMaskedLM, padded, sorted by length": partial(their_step, esm, sorted_),
        "torch.nn.TransformerEncoder, padded, sorted by length": partial(their_step, plain, sorted_),
    }
    arms: dict[str, Callable[[], object]] = {}
    products: dict[str, float] = {}
    ways = (FP32, BF16, COMPILED) if bf16 else (FP32,)
    for way in ways:
        arms[f"{OURS}, {way}"] = our_step(config, packed, way != FP32, way == COMPILED)
    for precision in (FP32, BF16) if bf16 else (FP32,):
        arms |= {f"{name}, {precision}": made(precision == BF16) for name, made in peers_arms.items()}
        arms[f"matrix product, {precision}"], products[precision] = matrix_product(
            config.hidden_size, budget, precision == BF16
        )
    seconds = time_in_turns(arms, len(samples) - WARMING, WARMING)
    flops = [training_flops(config, batches) for batches in packed[WARMING:]]
    residues = [float(sum(map(len, sample))) for sample in samples]
    figures = [
        Figure(
            f"what a peer computes of each residue, {name}",
            sum(batch.tokens.numel() for batch in chain.from_iterable(steps)) / sum(residues),
            "times",
        )
        for name, steps in (("in the given order", as_given), ("sorted by length", sorted_))
    ]
    del residues[:WARMING]
    rates = {name: flops / statistics.median(seconds[f"matrix product, {name}"]) for name, flops in products.items()}
    figures += [Figure(f"matrix product of that width, {name}", each / 1e9, "GFLOP/s") for name, each in rates.items()]
    for way in ways:
        own = seconds[f"{OURS}, {way}"]
        achieved = rate(flops, own)
        share = achieved / rates[FP32 if way == FP32 else BF16]
        figures += [
            Figure(f"{OURS}, {way}, {config.parameters:,} parameters", rate(residues, own), RATE),
            Figure(f"training step, {way}", achieved / 1e9, "GFLOP/s"),
            Figure(f"training step / matrix product, {way}", share, "", "at least 0.5 from hidden 512"),
        ]
    for name, theirs in product(peers_arms, products):
        taken = seconds[f"{name}, {theirs}"]
        figures.append(Figure(f"{name}, {theirs}", rate(residues, taken), RATE))
        for way in ways if theirs == FP32 else ways[1:]:
            wanted = ""
            if name == MEGATRON:
                wanted = "at least 4" if way.startswith(theirs) else "at least 8"
            elif "sorted" in name and way.startswith(theirs):
                wanted = "at least 2"
            value, interval = ratio_of_totals(taken, seconds[f"{OURS}, {way}"])
            figures.append(Figure(f"{OURS}, {way} / {name}, {theirs}", value, "times", wanted, interval))
    return figures


def our_step(
    config: ModelConfig, steps: list[list[Masked]], bf16: bool = False, compiled: bool = False
) -> Callable[[], None]:
    """What takes one optimiser step over the micro-batches of the next of `steps`."""
    torch.manual_seed(0)
    model = Ours(config)
    if compiled:
        for block in model.backbone.blocks:
            block.compile(dynamic=True)
    optimizer, _ = optim.build(model, OptimConfig(), 1000, config)
    upcoming = cycle(steps)

    def step() -> None:
        batches = next(upcoming)
        targets = sum(len(batch.targets) for batch in batches)
        optimizer.zero_grad()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(batch)
            (loss / targets).backward()
        optim.clip(model.parameters(), 1.0)
        optimizer.step()

    return step


def their_step(model: nn.Module, steps: list[list[Padded]], bf16: bool = False) -> Callable[[], None]:
    model.train()
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
    upcoming = cycle(steps)

    def step() -> None:
        batches = next(upcoming)
        optimizer.zero_grad()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = peers.loss(model, batch)
            (loss / len(batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def matrix_product(hidden: int, tokens: int, bf16: bool = False) -> tuple[Callable[[], object], float]:
    """The largest product of a block, and its FLOPs: what the machine does at best at this width."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    x, weight = torch.randn(tokens, hidden, dtype=dtype), torch.randn(4 * hidden, hidden, dtype=dtype)
    times = max(1, round(PRODUCT_FLOPS / (8 * tokens * hidden**2)))

    def multiply() -> None:
        for _ in range(times):
            F.linear(x, weight)

    return multiply, float(times * 8 * tokens * hidden**2)
