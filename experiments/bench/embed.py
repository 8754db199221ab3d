"""Mean embeddings by ours and by the peers, of the same proteins."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from experiments.bench import peers
from experiments.bench.figures import Figure, interleaved, ratio
from experiments.bench.train import BATCH, BF16, FP32, OURS, RATE, Ours
from experiments.bench.workload import Padded, padded_batches
from proteinlm import checkpoint, load
from proteinlm.config import ModelConfig


def embed(config: ModelConfig, sample: list[np.ndarray], repeats: int, bf16: bool) -> list[Figure]:
    """Ours through the public interface, padding of theirs in the given order and sorted, at equal precision."""
    ours = Ours(config)
    precisions = {FP32: "fp32", BF16: "bf16-mixed"} if bf16 else {FP32: "fp32"}
    with TemporaryDirectory() as folder:
        checkpoint.save_weights(Path(folder), {"backbone": ours.backbone, "head": ours.head}, config)
        models = {name: load(folder, device="cpu", precision=knob) for name, knob in precisions.items()}
    as_given, sorted_ = (padded_batches(sample, BATCH, by_length) for by_length in (False, True))
    megatron, esm = peers.megatron_bert(config).bert.eval(), peers.esm(config).esm.eval()
    texts = [letters.tobytes().decode() for letters in sample]
    theirs = {
        "MegatronBertModel, padded": (megatron, as_given),
        "MegatronBertModel, padded, sorted by length": (megatron, sorted_),
        "EsmModel, padded": (esm, as_given),
        "EsmModel, padded, sorted by length": (esm, sorted_),
    }
    arms: dict[str, Callable[[], object]] = {}
    for precision, model in models.items():
        arms[f"{OURS}, {precision}"] = partial(model.embed, texts)
        for name, (peer, batches) in theirs.items():
            arms[f"{name}, {precision}"] = their_embedding(peer, batches, precision == BF16)
    seconds = interleaved(arms, repeats)
    residues = sum(map(len, sample))
    figures = []
    for precision in models:
        own = seconds[f"{OURS}, {precision}"]
        figures.append(Figure(f"{OURS}, {precision}", residues / statistics.median(own), RATE))
        for name in theirs:
            taken = seconds[f"{name}, {precision}"]
            figures.append(Figure(f"{name}, {precision}", residues / statistics.median(taken), RATE))
            target = "at least 1.3" if "sorted" in name else "at least 5"
            figures.append(Figure(f"{OURS} / {name}, {precision}", ratio(taken, own), "times", target))
    return figures


def their_embedding(model: nn.Module, batches: list[Padded], bf16: bool) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch in batches:
                peers.mean_embedding(model, batch)

    return run
