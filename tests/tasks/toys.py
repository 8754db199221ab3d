"""Small proteins with labels that a model of one layer can learn, by TAPE's field names, and stages that run on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from proteinlm.config import FinetuneConfig, SyntheticDataConfig, register_schema
from proteinlm.data import synthetic
from proteinlm.vocabulary import AMINO_ACIDS
from tests.runs import ROOT

TINY = (
    "model=tiny",
    "model.hidden_size=32",
    "model.num_layers=1",
    "model.num_heads=4",
    "model.max_positions=64",
    "model.dropout=0.1",
    "task.learning_rate=1e-2",
    "task.step_tokens=1024",
    "task.micro_batch_tokens=256",
    "task.tokens=12288",  # 12 steps
    "task.epochs=0",
    "task.validations=4",
    "task.patience=6",
    "seeds=2",
    "train.precision=fp32",
    "train.threads=1",
    "train.checkpoint_seconds=0",
    "tracking=csv",
)
COUNTS = {"train": 60, "valid": 15}
TESTED = 13


@contextmanager
def in_place() -> Iterator[None]:
    """Let the synthetic universe have these proteins."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic, "labelled", labelled, raising=False)
        yield


def composed(*overrides: str) -> FinetuneConfig:
    """The config that a command line of `overrides` gives."""
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose("finetune", [*TINY, *overrides]))
    assert isinstance(config, FinetuneConfig)
    return config


def home(output: Path, label: str) -> Path:
    return output / "single/scratch" / label


def labelled(config: SyntheticDataConfig, task: str, split: str) -> list[dict[str, Any]]:
    """Stands in for `proteinlm.data.synthetic.labelled`."""
    generator = np.random.default_rng([config.seed, sum(map(ord, task + split))])
    return [record(task, generator) | {"id": f"{split}-{i}"} for i in range(COUNTS.get(split, TESTED))]


def record(task: str, generator: np.random.Generator) -> dict[str, Any]:
    """One protein, whose labels follow from its letters alone."""
    length = int(generator.integers(15, 30)) + (15 if task == "proteinnet" else 0)
    ids = generator.integers(0, 18, length)  # neither W nor Y
    labels: dict[str, Any] = {}
    if task == "secondary_structure":
        mask = (generator.random(length) > 0.2).astype(np.float32)
        labels = {"ss3": (ids % 3).astype(np.int32), "ss8": (ids % 8).astype(np.int32), "valid_mask": mask}
    elif task == "proteinnet":
        together = generator.choice(length // 7, 4, replace=False) * 7  # at least seven apart
        ids[together] = 18
        places = 100.0 * np.arange(1, length + 1)[:, None] * np.ones(3)
        places[together] = 1
        labels = {"tertiary": places.astype(np.float32), "valid_mask": np.ones(length, bool)}
    elif task == "remote_homology":
        kind = int(generator.integers(3))
        ids[generator.random(length) < 0.5] = kind
        labels = {"fold_label": kind}
    elif task == "fluorescence":
        labels = {"log_fluorescence": np.array([(ids < 9).mean()], np.float32), "num_mutations": 1}
    elif task == "stability":
        labels = {"stability_score": np.array([1000 + 50 * (ids < 9).mean()], np.float32)}
    return {"primary": "".join(AMINO_ACIDS[index] for index in ids), **labels}
