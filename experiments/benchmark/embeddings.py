"""Embeddings of a frozen model, computed once for all splits of a benchmark and kept on disk.

A file holds those of some proteins by one model, and a digest of each protein, so every run finds what any other run has
computed, whatever its splits. They are kept as float16: a probe on them learns the same, and they take half the room.

N proteins, L residues of one, R residues of all, H hidden size.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from proteinlm import checkpoint
from proteinlm.checkpoint import Weights
from proteinlm.config import digest
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.model import Model, Placement, Pooling, check_length
from proteinlm.models import registry
from proteinlm.models.seeding import reseed
from proteinlm.storage.atomic import written_whole

RESIDUES = 20_000
"""Of the proteins that share a file, about: little is lost when a run is stopped."""


def load_model(path: Path, is_random: bool, seed: int, machine: Placement) -> Model:
    """The model in the directory `path`, or one of its shape with random weights."""
    weights = checkpoint.load_weights(path)
    if not is_random:
        return Model(weights, machine)
    reseed(seed, torch.device("cpu"))
    backbone = registry.build(weights.config)
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    if "head.bias" in weights.tensors:
        head = registry.language_model_head(weights.config)
        tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    fingerprint = digest(["random", seed, vars(weights.config)])
    return Model(Weights(weights.config, tensors, fingerprint, f"random weights of the shape of {path}"), machine)


def embed(model: Model, sequences: Sequence[str], pooling: Pooling, cache: Path) -> dict[str, np.ndarray]:
    """The embedding of each distinct sequence, (H,) or (L, H) float16, from `cache` where it has them.

    Raises `InputError` for a sequence that is too long for the model.
    """
    distinct = sorted(set(sequences), key=lambda sequence: (len(sequence), sequence))
    for sequence in distinct[-1:]:
        try:
            check_length(len(sequence), model.longest)
        except InputError as error:
            raise InputError(f"{sequence[:10]}...: {error}") from None
    folder = cache / f"{model.fingerprint[:12]}-{model.machine.precision}-{pooling}"
    folder.mkdir(parents=True, exist_ok=True)
    found = _kept(folder, distinct, pooling)
    missing = [sequence for sequence in distinct if sequence not in found]
    with Bar("embedding", sum(map(len, missing)), of_bytes=False) as bar:
        for group in _groups(missing):
            letters = [np.frombuffer(sequence.encode(), np.uint8) for sequence in group]
            rows = [np.atleast_2d(part).astype(np.float16) for part in model.pool(letters, pooling)]
            digests = np.array([_digest(sequence) for sequence in group])
            name = hashlib.sha256(digests.tobytes()).hexdigest()[:32]
            with written_whole(folder / f"{name}.npz") as sink:
                np.savez(
                    sink, allow_pickle=False, digests=digests, lengths=[*map(len, rows)], rows=np.concatenate(rows)
                )
            found |= zip(group, rows if pooling == "residue" else (part[0] for part in rows), strict=True)
            bar.advance(sum(map(len, group)))
    return found


def _kept(folder: Path, sequences: Sequence[str], pooling: Pooling) -> dict[str, np.ndarray]:
    """The embeddings of those of `sequences` that the files in `folder` have."""
    wanted = {_digest(sequence): sequence for sequence in sequences}
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as content:
                digests = content["digests"].tolist()
                if wanted.keys().isdisjoint(digests):
                    continue
                parts = np.split(content["rows"], np.cumsum(content["lengths"])[:-1])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{file}: damaged, remove it: {error}") from None
        for name, part in zip(digests, parts, strict=True):
            if name in wanted:
                found[wanted[name]] = part if pooling == "residue" else part[0]
    return found


def _digest(sequence: str) -> bytes:
    return hashlib.sha256(sequence.encode()).hexdigest()[:32].encode()


def _groups(sequences: Sequence[str]) -> Iterator[list[str]]:
    group, size = [], 0
    for sequence in sequences:
        group.append(sequence)
        size += len(sequence)
        if size >= RESIDUES:
            yield group
            group, size = [], 0
    if group:
        yield group
