"""Model and optimiser on disk: checkpoints to go on from, and weights to keep."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save
from torch import Tensor, nn

from proteinlm.config import ModelConfig
from proteinlm.files import write_text, written_whole

KEPT = 2
"""Checkpoints of a run that stay on disk: the last and, should it prove damaged, the one before."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old ones, syncs it, and renames it: a crash never leaves half of one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with written_whole(Path(path)) as file:
            torch.save(checkpoint, file)


def path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps belongs."""
    return directory / f"step-{step:09d}.ckpt"


def step_of(file: Path) -> int:
    """Optimiser steps done when `file` was written."""
    return int(file.stem.removeprefix("step-"))


def newest(directory: Path) -> Path | None:
    """The last checkpoint in `directory`, or None."""
    return max(directory.glob("step-*.ckpt"), default=None)


def discard_old(directory: Path) -> None:
    """Delete all but the last `KEPT` checkpoints."""
    for old in sorted(directory.glob("step-*.ckpt"))[:-KEPT]:
        old.unlink()


def save_weights(directory: Path, modules: Mapping[str, nn.Module], config: ModelConfig) -> None:
    """Write ``model.safetensors`` and ``config.json``; tensor names are prefixed by the key of their module."""
    tensors: dict[str, Tensor] = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    directory.mkdir(exist_ok=True)
    with written_whole(directory / "model.safetensors") as file:
        file.write(save(tensors))
    write_text(directory / "config.json", json.dumps(asdict(config), indent=2) + "\n")
