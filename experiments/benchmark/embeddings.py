"""Embeddings of a frozen model, computed once for all splits of a benchmark and kept on disk.

A file holds those of some proteins by one model, and a digest of each protein, so every run finds what any other run has
computed, whatever its splits. They are kept as float16: a probe on them learns the same, and they take half the room. They
are read protein by protein, so those of a large benchmark need not fit into memory.

N proteins, L residues of one, R residues of the proteins of a file, H hidden size.
"""

import hashlib
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
from proteinlm.storage.atomic import locked, written_whole

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


class _Kept(NamedTuple):
    """The place of a protein's rows, (1 or L, H) float16."""

    file: Path
    begin: int
    """In bytes."""
    rows: int
    width: int

    def read(self) -> np.ndarray:
        values = np.fromfile(self.file, np.float16, self.rows * self.width, offset=self.begin)
        return values.reshape(self.rows, self.width)


class Embeddings:
    """The embeddings of proteins, which are on disk, and read one by one."""

    def __init__(self, kept: dict[str, _Kept], pooling: Pooling) -> None:
        self._kept, self._pooling = kept, pooling

    def __call__(self, sequences: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Each of the sequences, in the order of the files, with its embedding, (H,) or (L, H) float16."""
        for sequence in sorted(sequences, key=self._kept.__getitem__):
            rows = self._kept[sequence].read()
            yield sequence, rows if self._pooling == "residue" else rows[0]


def embed(model: Model, sequences: Sequence[str], pooling: Pooling, cache: Path) -> Embeddings:
    """The embeddings of `sequences`, of which those are computed that `cache` has not.

    Of several processes that ask for the same model, one computes at a time, and the others find what it has left. Raises
    `InputError` for a sequence that is too long for the model.
    """
    distinct = sorted(set(sequences), key=lambda sequence: (len(sequence), sequence))
    for sequence in distinct[-1:]:
        try:
            check_length(len(sequence), model.longest)
        except InputError as error:
            raise InputError(f"{sequence[:10]}...: {error}") from None
    folder = cache / f"{model.fingerprint[:12]}-{model.machine.precision}-{pooling}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = _find(folder, distinct)
    if len(kept) < len(distinct):
        with locked(
            folder / ".lock", lambda: print(f"waiting for another process that fills {folder}", file=sys.stderr)
        ):
            kept = _find(folder, distinct)
            _compute(model, [sequence for sequence in distinct if sequence not in kept], pooling, folder)
        kept = _find(folder, distinct)
    return Embeddings(kept, pooling)


def _compute(model: Model, sequences: list[str], pooling: Pooling, folder: Path) -> None:
    with Bar("embedding", sum(map(len, sequences)), of_bytes=False) as bar:
        for group in _groups(sequences):
            letters = [np.frombuffer(sequence.encode(), np.uint8) for sequence in group]
            rows = [np.atleast_2d(part).astype(np.float16) for part in model.pool(letters, pooling)]
            digests = np.array([_digest(sequence) for sequence in group])
            name = hashlib.sha256(digests.tobytes()).hexdigest()[:32]
            with written_whole(folder / f"{name}.npz") as sink:
                np.savez(
                    sink, allow_pickle=False, digests=digests, lengths=[*map(len, rows)], rows=np.concatenate(rows)
                )
            bar.advance(sum(map(len, group)))


def _find(folder: Path, sequences: Sequence[str]) -> dict[str, _Kept]:
    """The places of those of `sequences` that the files in `folder` have."""
    wanted = {_digest(sequence): sequence for sequence in sequences}
    found: dict[str, _Kept] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as content:
                digests = content["digests"].tolist()
                if wanted.keys().isdisjoint(digests):
                    continue
                lengths = content["lengths"].tolist()
            begin, width = _rows(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{file}: damaged, remove it: {error}") from None
        for name, length in zip(digests, lengths, strict=True):
            if name in wanted:
                found[wanted[name]] = _Kept(file, begin, length, width)
            begin += length * width * 2
    return found


def _rows(file: Path) -> tuple[int, int]:
    """Where the numbers of the array ``rows`` (R, H) begin in an archive that is not compressed, in bytes, and H."""
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            raise ValueError("its checksum is another")
        member = archive.getinfo("rows.npy")
        with archive.open(member) as array:
            np.lib.format.read_magic(array)
            shape, _, _ = np.lib.format.read_array_header_1_0(array)
            header = array.tell()
    with file.open("rb") as raw:  # the header of a member: 30 bytes, its name, and what else was written
        raw.seek(member.header_offset + 26)
        lengths = struct.unpack("<HH", raw.read(4))
    return member.header_offset + 30 + sum(lengths) + header, shape[1]


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
