"""From a data config to the proteins it names."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from proteinlm.config import DataConfig, FilesDataConfig, SyntheticDataConfig
from proteinlm.data.sequences import Sequences
from proteinlm.errors import InputError

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


def _files(config: FilesDataConfig) -> Corpus:
    from proteinlm.data import layout, store

    cache = Path(config.cache).expanduser() if config.cache else store.default_cache()
    opened = store.ensure(Path(config.root).expanduser(), cache)
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
