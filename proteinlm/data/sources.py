"""From a data config to the proteins it names."""

import hashlib
from dataclasses import dataclass

from proteinlm.config import DataConfig, SyntheticDataConfig
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
    raise InputError(f"data={config.name} is not one of synthetic")


def _synthetic(config: SyntheticDataConfig) -> Corpus:
    from proteinlm.data import synthetic

    tables = {split: synthetic.corpus(config, split) for split in SPLITS}
    whole = hashlib.sha256()
    for table in tables.values():
        for buffer in table["sequence"].chunk(0).buffers()[1:]:
            whole.update(buffer)
    return Corpus({split: Sequences(table["sequence"]) for split, table in tables.items()}, whole.hexdigest()[:12])
