"""From a data config to the proteins it names."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proteinlm.config import CsvDataConfig, DataConfig, FilesDataConfig, SyntheticDataConfig, digest
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError
from proteinlm.storage.cache import default_cache

if TYPE_CHECKING:
    from proteinlm.data.store import Store

SPLITS = ("train", "valid", "holdout")


@dataclass(frozen=True)
class Corpus:
    """What a language model is pretrained on: `SPLITS` of proteins, and a fingerprint of them all."""

    splits: dict[str, Sequences]
    fingerprint: str


def corpus(config: DataConfig) -> Corpus:
    """Open the pretraining corpus that `config` names."""
    if isinstance(config, SyntheticDataConfig):
        return _synthetic(config)
    if isinstance(config, FilesDataConfig):
        return _files(config)
    raise InputError(f"data={config.name} is not one of synthetic, files")


@dataclass(frozen=True)
class Labelled:
    """The splits of one downstream task, and a fingerprint of them all."""

    origins: dict[str, str]
    """What to call each split when something is wrong with it."""
    sizes: dict[str, int]
    """Proteins of each split."""
    records: Callable[[str], Iterable[dict[str, Any]]]
    """The proteins of a split, by TAPE's field names."""
    fingerprint: str
    remarks: tuple[str, ...] = ()
    """What the user should know of them."""


def labelled(config: DataConfig, task: str, splits: Iterable[str]) -> Labelled:
    """Open the `splits` of `task` (TAPE's name of it) that `config` names; `InputError` if one is not there."""
    if isinstance(config, SyntheticDataConfig):
        return _synthetic_labelled(config, task, splits)
    if isinstance(config, FilesDataConfig):
        opened = _store(config)
        found = {split: opened.split(task, split) for split in splits}
        return Labelled(
            origins={split: str(Path(opened.manifest.root) / what.source.path) for split, what in found.items()},
            sizes={split: what.records for split, what in found.items()},
            records=partial(opened.records, task),
            fingerprint=digest({split: what.sha256 for split, what in found.items()}),
        )
    if isinstance(config, CsvDataConfig):
        raise InputError(f"data=csv holds labels of your own, for task=custom: not those of {task}")
    raise InputError(f"data={config.name} is not one of synthetic, files")


def _store(config: FilesDataConfig) -> "Store":
    from proteinlm.data import store

    cache = Path(config.cache).expanduser() if config.cache else default_cache()
    return store.ensure(Path(config.root).expanduser(), cache, config.letters)


def _files(config: FilesDataConfig) -> Corpus:
    from proteinlm.data.store import layout

    opened = _store(config)
    splits = {split: opened.sequences(layout.PRETRAIN, split) for split in SPLITS}
    return Corpus(splits, opened.fingerprint(layout.PRETRAIN))


def _synthetic(config: SyntheticDataConfig) -> Corpus:
    from proteinlm.data import synthetic

    tables = {split: synthetic.corpus(config, split) for split in SPLITS}
    whole = hashlib.sha256()
    for table in tables.values():
        for buffer in table["sequence"].chunk(0).buffers()[1:]:
            whole.update(buffer)
    return Corpus({split: Sequences(table["sequence"]) for split, table in tables.items()}, whole.hexdigest()[:12])


def _synthetic_labelled(config: SyntheticDataConfig, task: str, splits: Iterable[str]) -> Labelled:
    from proteinlm.data import synthetic

    made = {split: synthetic.labelled(config, task, split) for split in splits}
    whole = hashlib.sha256()
    for records in made.values():
        for record in records:
            for name in sorted(record):
                whole.update(f"{name}\0".encode() + np.asarray(record[name]).tobytes())
    return Labelled(
        origins={split: f"synthetic {task} {split}" for split in made},
        sizes={split: len(records) for split, records in made.items()},
        records=made.__getitem__,
        fingerprint=whole.hexdigest()[:12],
    )
