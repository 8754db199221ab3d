"""Pretraining runs small enough for tests, as real processes or in this one."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from proteinlm.config import RunConfig, register_schema

ROOT = Path(__file__).parents[1]
SMALL = (  # two micro-batches a step, dropout on, a few steps
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.max_positions=128",
    "train.step_tokens=2048",
    "train.micro_batch_tokens=512",
    "train.tokens=24576",  # 12 steps
    "train.validations=2",
    "train.validation_tokens=1024",
    "train.threads=1",
    "train.checkpoint_seconds=0",
    "optim.learning_rate=1e-2",
    "tracking=csv",
)


def composed(*overrides: str) -> RunConfig:
    """The config that a command line of `overrides` gives."""
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose("pretrain", ["name=tiny", *overrides]))
    assert isinstance(config, RunConfig)
    return config


def start(output: Path, *overrides: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A pretraining run in a process of its own; its results go to ``output/single/tiny/pretrain``."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.pretrain", *SMALL, f"output={output}", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must succeed; its output."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def home(output: Path) -> Path:
    return output / "single/tiny/pretrain"


def weights(output: Path) -> dict[str, Tensor]:
    return load_file(home(output) / "model/model.safetensors")


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
