"""Mean embeddings by ours and by the peers, of the same proteins."""

import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from experiments.bench import peers
from experiments.bench.figures import Figure, interleaved, ratio
from experiments.bench.train import BATCH, OURS, Ours
from experiments.bench.workload import Padded, padded_batches
from proteinlm import checkpoint, load
from proteinlm.config import ModelConfig


def embed(config: ModelConfig, sample: list[np.ndarray], repeats: int) -> list[Figure]:
    """Ours through the public interface, padding of theirs in the given order and sorted."""
    ours = Ours(config)
    with TemporaryDirectory() as folder:
        checkpoint.save_weights(Path(folder), {"backbone": ours.backbone, "head": ours.head}, config)
        model = load(folder, device="cpu")
    as_given, sorted_ = (padded_batches(sample, BATCH, by_length) for by_length in (False, True))
    megatron, esm = peers.megatron_bert(config).bert.eval(), peers.esm(config).esm.eval()
    texts = [letters.tobytes().decode() for letters in sample]
    arms: dict[str, Callable[[], object]] = {
        OURS: lambda: model.embed(texts),
        "MegatronBertModel, padded": their_embedding(megatron, as_given),
        "MegatronBertModel, padded, sorted by length": their_embedding(megatron, sorted_),
        "EsmModel, padded": their_embedding(esm, as_given),
        "EsmModel, padded, sorted by length": their_embedding(esm, sorted_),
    }
    seconds = interleaved(arms, repeats)
    residues = sum(map(len, sample))
    own = seconds.pop(OURS)
    figures = [Figure(OURS, residues / statistics.median(own), "residues/s")]
    for name, taken in seconds.items():
        figures.append(Figure(name, residues / statistics.median(taken), "residues/s"))
        target = "at least 1.3" if "sorted" in name else "at least 5 with bf16 in hardware"
        figures.append(Figure(f"{OURS} / {name}", ratio(taken, own), "times", target))
    return figures


def their_embedding(model: nn.Module, batches: list[Padded]) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            peers.mean_embedding(model, batch)

    return run
