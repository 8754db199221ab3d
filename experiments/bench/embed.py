"""Mean embeddings by ours and by the peers, of the same proteins, new ones in each round."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from experiments.bench import peers
from experiments.bench.figures import Figure, rate, ratio, time_in_turns
from experiments.bench.train import BATCH, BF16, FP32, OURS, RATE, WARMING, Ours
from experiments.bench.workload import Padded, padded_batches
from proteinlm import checkpoint, load
from proteinlm.config import ModelConfig
from proteinlm.inference.model import Model


def embed(config: ModelConfig, samples: list[list[np.ndarray]], bf16: bool) -> list[Figure]:
    """Of each of `samples`, of which the first `WARMING` do not count: ours through the public interface, padding of
    theirs in the given order and sorted, at equal precision.
    """
    ours = Ours(config)
    precisions = {FP32: "fp32", BF16: "bf16-mixed"} if bf16 else {FP32: "fp32"}
    with TemporaryDirectory() as folder:
        checkpoint.save_weights(Path(folder), {"backbone": ours.backbone, "head": ours.head}, config)
        models = {name: load(folder, device="cpu", precision=knob) for name, knob in precisions.items()}
    as_given, sorted_ = (
        [padded_batches(sample, BATCH, by_length) for sample in samples] for by_length in (False, True)
    )
    megatron, esm = peers.megatron_bert(config).bert.eval(), peers.esm(config).esm.eval()
    texts = [[letters.tobytes().decode() for letters in sample] for sample in samples]
    theirs = {
        "MegatronBertModel, padded": (megatron, as_given),
        "MegatronBertModel, padded, sorted by length": (megatron, sorted_),
        "EsmModel, padded": (esm, as_given),
        "EsmModel, padded, sorted by length": (esm, sorted_),
    }
    arms: dict[str, Callable[[], object]] = {}
    for precision, model in models.items():
        arms[f"{OURS}, {precision}"] = our_embedding(model, texts)
        for name, (peer, steps) in theirs.items():
            arms[f"{name}, {precision}"] = their_embedding(peer, steps, precision == BF16)
    seconds = time_in_turns(arms, len(samples) - WARMING, WARMING)
    residues = [float(sum(map(len, sample))) for sample in samples[WARMING:]]
    figures = []
    for precision in models:
        own = seconds[f"{OURS}, {precision}"]
        figures.append(Figure(f"{OURS}, {precision}", rate(residues, own), RATE))
        for name in theirs:
            taken = seconds[f"{name}, {precision}"]
            figures.append(Figure(f"{name}, {precision}", rate(residues, taken), RATE))
            target = "at least 1.3" if "sorted" in name else "at least 5"
            figures.append(Figure(f"{OURS} / {name}, {precision}", ratio(taken, own), "times", target))
    return figures


def our_embedding(model: Model, samples: list[list[str]]) -> Callable[[], object]:
    upcoming = cycle(samples)
    return lambda: model.embed(next(upcoming))


def their_embedding(model: nn.Module, samples: list[list[Padded]], bf16: bool) -> Callable[[], object]:
    upcoming = cycle(samples)

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch in next(upcoming):
                peers.mean_embedding(model, batch)

    return run
