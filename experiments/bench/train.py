"""A training step of ours and of the peers on the same proteins: residues per second, and the share of the machine's
matrix-product rate.
"""

import statistics
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from experiments.bench import peers
from experiments.bench.figures import Figure, interleaved, ratio
from experiments.bench.workload import Padded, packed_steps, padded_batches, training_flops
from proteinlm import optim
from proteinlm.backbone import Backbone
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.data.masking import Masked
from proteinlm.heads import LanguageModelHead

BATCH = 8
"""Proteins that a peer computes at once: the Trainer's default."""
OURS = "proteinlm"


class Ours(nn.Module):
    """Backbone and head as pretraining has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(config), LanguageModelHead(config)

    def forward(self, batch: Masked) -> Tensor:
        hidden = self.backbone(batch.packed.tokens, batch.packed.starts, batch.packed.longest)
        logits = self.head(hidden.index_select(0, batch.positions), self.backbone.token_embedding.weight)
        return F.cross_entropy(logits.float(), batch.targets, reduction="sum")


def train(config: ModelConfig, sample: list[np.ndarray], budget: int, repeats: int, bf16: bool) -> list[Figure]:
    """One optimiser step over `sample`, ours in micro-batches of `budget` tokens, the peers' `BATCH` proteins at a time."""
    packed = packed_steps(sample, budget)
    as_given, sorted_ = (padded_batches(sample, BATCH, by_length) for by_length in (False, True))
    megatron, esm, plain = peers.megatron_bert(config), peers.esm(config), peers.PlainEncoder(config)
    arms: dict[str, Callable[[], object]] = {
        OURS: our_step(config, packed),
        "MegatronBertForMaskedLM, padded": their_step(megatron, as_given),
        "MegatronBertForMaskedLM, padded, sorted by length": their_step(megatron, sorted_),
        "EsmForMaskedLM, padded": their_step(esm, as_given),
        "EsmForMaskedLM, padded, sorted by length": their_step(esm, sorted_),
        "torch.nn.TransformerEncoder, padded, sorted by length": their_step(plain, sorted_),
    }
    if bf16:
        arms[f"{OURS}, bf16"] = our_step(config, packed, bf16=True)
        arms["MegatronBertForMaskedLM, padded, bf16"] = their_step(megatron, as_given, bf16=True)
    product, flops_of_product = matrix_product(config.hidden_size, budget)
    seconds = interleaved({**arms, "product": product}, repeats)
    rate = flops_of_product / statistics.median(seconds.pop("product"))
    residues = sum(map(len, sample))
    ours = seconds.pop(OURS)
    achieved = training_flops(config, packed) / statistics.median(ours)
    figures = [
        Figure(f"{OURS}, {config.parameters:,} parameters", residues / statistics.median(ours), "residues/s"),
        Figure("matrix product of that width, fp32", rate / 1e9, "GFLOP/s"),
        Figure("training step", achieved / 1e9, "GFLOP/s"),
        Figure("training step / matrix product", achieved / rate, "", "at least 0.5 from hidden 512"),
    ]
    wanted = {"MegatronBertForMaskedLM, padded": "at least 8 with bf16 in hardware"}
    for name, taken in seconds.items():
        figures.append(Figure(name, residues / statistics.median(taken), "residues/s"))
        target = wanted.get(name, "at least 1.5" if "sorted" in name else "")
        figures.append(Figure(f"{OURS} / {name}", ratio(taken, ours), "times", target))
    return figures


def our_step(config: ModelConfig, batches: list[Masked], bf16: bool = False) -> Callable[[], object]:
    torch.manual_seed(0)
    model = Ours(config)
    optimizer, _ = optim.build(model, OptimConfig(), 1000, config)
    targets = sum(len(batch.targets) for batch in batches)

    def step() -> None:
        optimizer.zero_grad()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(batch)
            (loss / targets).backward()
        optim.clip(model.parameters(), 1.0)
        optimizer.step()

    return step


def their_step(model: nn.Module, batches: list[Padded], bf16: bool = False) -> Callable[[], object]:
    model.train()
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = peers.loss(model, batch)
            (loss / len(batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def matrix_product(hidden: int, tokens: int) -> tuple[Callable[[], object], float]:
    """The largest product of a block, and its FLOPs: what the machine does at best at this width."""
    x, weight = torch.randn(tokens, hidden), torch.randn(4 * hidden, hidden)
    times = max(1, round(2e11 / (8 * tokens * hidden**2)))  # a few seconds

    def multiply() -> None:
        for _ in range(times):
            F.linear(x, weight)

    return multiply, float(times * 8 * tokens * hidden**2)
