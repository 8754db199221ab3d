"""Small proteins in the formats of the field, written as their authors wrote them."""

import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest

from proteinlm.data import store
from proteinlm.data.store import Store

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
"""Real records, beside the repository; see `needs_shared`."""

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def ignore(raw: bytes) -> None:
    """For readers that show the bytes they read."""


def protein(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(AMINO_ACIDS), length))


def tape_record(task: str, index: int) -> dict:
    """A record of TAPE with the types of ``tfrecord_to_lmdb.py``: every field of every task."""
    random = np.random.default_rng(index)
    length = int(random.integers(5, 40))
    record: dict = {"primary": protein(length, index), "protein_length": length}

    def real(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def label(classes: int) -> np.ndarray:
        return random.integers(0, classes, length).astype(np.int32)

    if task == "pfam":
        return record | {"clan": index % 7, "family": 1000 + index}
    if task == "fluorescence":
        return record | {"log_fluorescence": real(1), "num_mutations": index}
    record["id"] = f"{task}-{index}".encode()
    if task == "stability":
        return record | {"topology": b"HHH", "parent": b"HHH_0142.pdb", "stability_score": real(1)}
    if task == "remote_homology":
        labels = {f"{level}_label": index for level in ("class", "fold", "superfamily", "family")}
        tracks = {"secondary_structure": real(length, 3), "solvent_accessibility": real(length, 2)}
        return record | labels | tracks | {"evolutionary": real(length, 20)}
    if task == "proteinnet":
        mask = random.random(length) < 0.8
        return record | {"evolutionary": real(length, 21), "tertiary": real(length, 3), "valid_mask": mask}
    labels = {"ss3": label(3), "ss8": label(8), "disorder": label(2), "interface": label(2)}
    angles = {name: real(length) for name in ("phi", "psi", "rsa", "asa_max")}
    return record | labels | angles | {"evolutionary": real(length, 30), "valid_mask": np.ones(length, np.float32)}


def assert_equal_records(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert type(ours[name]) is type(value)
        if isinstance(value, np.ndarray):
            assert ours[name].dtype == value.dtype
        np.testing.assert_array_equal(ours[name], value)


def dumps_numpy_1(value: object, protocol: int = 3) -> bytes:
    """A pickle as numpy 1 wrote it; protocols below 4 have names as lines of text."""
    return pickle.dumps(value, protocol).replace(b"numpy._core.", b"numpy.core.")


def write_lmdb(path: Path, values: list[bytes], count: bytes | None = None) -> None:
    """An LMDB directory with keys ``b"0"``, ... and ``b"num_examples"``."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for index, value in enumerate(values):
            transaction.put(str(index).encode(), value)
        transaction.put(b"num_examples", pickle.dumps(len(values)) if count is None else count)


def write_tape(root: Path, task: str, split: str, records: list[dict], dumps=pickle.dumps) -> Path:
    """``root/<task>/<task>_<split>.lmdb``."""
    path = root / task / f"{task}_{split}.lmdb"
    write_lmdb(path, [dumps(record) for record in records])
    return path


def write_fasta(root: Path, split: str, sequences: list[str]) -> Path:
    path = root / "pretrain" / f"pretrain_{split}.fasta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">p{index} family=F{index % 3}\n{text}\n" for index, text in enumerate(sequences)))
    return path


def built(root: Path) -> Store:
    return store.ensure(root, root.parent / "cache")


def sequences(count: int) -> list[str]:
    return [protein(1 + index % 50, index) for index in range(count)]
