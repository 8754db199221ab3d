"""A training step of the ten laptop shapes with the functions in C and without them, in turns, beside the products alone."""

import os
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np

from experiments.bench import workload
from experiments.bench.figures import Figure, rate, ratio, time_in_turns
from experiments.bench.train import matrix_product, our_step
from proteinlm.config import ModelConfig, SyntheticDataConfig
from proteinlm.data import sources
from proteinlm.data.batches.packing import cut
from proteinlm.models.kernels import compiler

SHAPES = (
    *((192, 6, 8), (128, 6, 8), (128, 6, 4), (128, 3, 8), (32, 8, 4)),
    *((64, 3, 8), (64, 3, 16), (48, 4, 8), (48, 4, 12), (48, 3, 3)),
)
"""Hidden size, layers and heads of the ten rows under ``profile=laptop``."""
TOKENS = 2048


def small(repeats: int, bf16: bool = False, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> list[Figure]:
    """Steps over micro-batches of the embedded default, new ones in each round; in bf16 the first rounds compile kernels."""
    warming = 4 if bf16 else 1
    packed = [workload.packed_steps(sample, TOKENS) for sample in samples(repeats + warming)]
    figures = []
    for shape in shapes:
        config = ModelConfig(*shape, dropout=0.0)
        product, flops_of_product = matrix_product(config.hidden_size, TOKENS, bf16)
        arms: dict[str, Callable[[], object]] = {
            "C": our_step(config, packed, bf16),
            "PyTorch": partial(without_kernels, our_step(config, packed, bf16)),
            "product": product,
        }
        seconds = time_in_turns(arms, repeats, warming)
        flops = [workload.training_flops(config, batches) for batches in packed[warming:]]
        share = rate(flops, seconds["C"]) * statistics.median(seconds["product"]) / flops_of_product
        name = " x ".join(map(str, shape))
        figures += [
            Figure(f"{name}: step", 1000 * statistics.median(seconds["C"]), "ms"),
            Figure(f"{name}: without functions in C / with", ratio(seconds["PyTorch"], seconds["C"]), "times"),
            Figure(f"{name}: rate of a whole step's products / matrix product", share, ""),
        ]
    return figures


def samples(count: int) -> list[list[np.ndarray]]:
    """The letters of the proteins of `count` micro-batches, in random order."""
    sequences = sources.corpus(SyntheticDataConfig(name="synthetic")).splits["train"]
    records = np.random.default_rng(0).permutation(len(sequences))[: count * TOKENS // 40]
    drawn = [sequences.letters(int(record)) for record in records]
    pieces = cut(np.arange(len(drawn)), np.array([len(letters) + 1 for letters in drawn]), TOKENS)
    return [[drawn[place] for place in piece.tolist()] for piece in pieces[:count]]


def without_kernels(step: Callable[[], object]) -> None:
    """Take a step by PyTorch alone."""
    before = os.environ.get(compiler.SWITCH)
    os.environ[compiler.SWITCH] = "0"
    compiler._load_once.cache_clear()
    try:
        step()
    finally:
        del os.environ[compiler.SWITCH]
        if before is not None:
            os.environ[compiler.SWITCH] = before
        compiler._load_once.cache_clear()
        compiler.load_kernels()
