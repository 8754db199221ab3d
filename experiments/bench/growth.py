"""How cost grows: FLOPs per second over depth and width, and batches per second over the size of the corpus.

Both should stay flat. Interleaved, so that a drift of the machine falls on all alike.
"""

import statistics
from collections.abc import Callable
from itertools import chain

import numpy as np
import pyarrow as pa

from experiments.bench import workload
from experiments.bench.figures import Figure, ratio, time_in_turns
from experiments.bench.train import matrix_product, our_step
from proteinlm.config import ModelConfig
from proteinlm.data.batches.language_model import MaskedProteins
from proteinlm.data.batches.schedule import MicroBatch, Schedule
from proteinlm.data.store.sequences import Sequences

BASE = (512, 4, 8)
SHAPES = ((512, 2, 8), BASE, (512, 8, 8), (768, 4, 12), (1024, 4, 16))
"""Hidden size, layers, heads: the same head dimension, one of depth and width at a time."""
CORPORA = (10_000, 100_000, 1_000_000)
"""Proteins."""
BUDGET, STEPS, LONGEST = 16_384, 40, 1023


def growth(count: int, longest: int, repeats: int) -> list[Figure]:
    return [*over_shapes(count, longest, repeats), *over_corpora(repeats)]


def over_shapes(count: int, longest: int, repeats: int) -> list[Figure]:
    """Training steps on the same `count` proteins, by shape."""
    packed = workload.packed_steps(workload.proteins(count, longest, None), 4096)
    configs = {shape: ModelConfig(*shape, dropout=0.0) for shape in SHAPES}
    flops = {shape: workload.training_flops(config, packed) for shape, config in configs.items()}
    product, flops_of_product = matrix_product(BASE[0], 4096)
    arms: dict[str, Callable[[], object]] = {name(shape): our_step(configs[shape], [packed]) for shape in SHAPES}
    seconds = time_in_turns({**arms, "product": product}, repeats)
    rate = flops_of_product / statistics.median(seconds["product"])
    figures = [Figure(f"matrix product of hidden {BASE[0]}, fp32", rate / 1e9, "GFLOP/s")]
    base = [taken / flops[BASE] for taken in seconds[name(BASE)]]
    for shape in SHAPES:
        each = [taken / flops[shape] for taken in seconds[name(shape)]]
        achieved = 1 / statistics.median(each)
        figures.append(Figure(f"training step, {name(shape)}", achieved / 1e9, "GFLOP/s"))
        figures.append(Figure(f"{name(shape)}: rate / matrix product", achieved / rate, "", "at least 0.5"))
        if shape != BASE:
            figures.append(
                Figure(f"{name(shape)}: cost per FLOP over that of {name(BASE)}", ratio(each, base), "", "0.9 to 1.1")
            )
    return figures


def over_corpora(repeats: int) -> list[Figure]:
    """`STEPS` masked micro-batches from the middle of an epoch, by the number of proteins."""
    residues: dict[str, int] = {}
    arms: dict[str, Callable[[], object]] = {}
    for proteins in CORPORA:
        sequences = made_up(proteins)
        schedule = Schedule(sequences.lengths(), longest=LONGEST, budget=BUDGET, per_step=1, seed=0, mask_percent=15)
        plans = list(chain.from_iterable(schedule.steps(STEPS, 2 * STEPS)))
        dataset = MaskedProteins(sequences, longest=LONGEST, mask_percent=15, seed=0)
        label = f"{proteins:,} proteins"
        residues[label] = sum(dataset[plan].residues for plan in plans)

        def load(dataset: MaskedProteins = dataset, plans: list[MicroBatch] = plans) -> None:
            for plan in plans:
                _ = dataset[plan]

        arms[label] = load
    seconds = time_in_turns(arms, repeats)
    first = f"{CORPORA[0]:,} proteins"
    figures = []
    for label, taken in seconds.items():
        each = [second / residues[label] for second in taken]
        figures.append(Figure(f"batches of a corpus of {label}", 1e-6 / statistics.median(each), "M residues/s"))
        if label != first:
            few = [second / residues[first] for second in seconds[first]]
            figures.append(
                Figure(f"{label}: cost per residue over that of {first}", ratio(each, few), "", "0.9 to 1.1")
            )
    return figures


def name(shape: tuple[int, int, int]) -> str:
    return f"hidden {shape[0]} x {shape[1]}"


def made_up(proteins: int) -> Sequences:
    """Random letters, with lengths like Pfam's."""
    draw = np.random.default_rng(0)
    lengths = workload.lengths_like_pfam(draw, proteins, LONGEST)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    letters = workload.LETTERS[draw.integers(0, 20, offsets[-1], dtype=np.uint8)]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    return Sequences(pa.chunked_array([pa.Array.from_buffers(pa.large_string(), proteins, buffers)]))
