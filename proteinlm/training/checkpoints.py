"""Decides when a run saves its progress, and writes the file so that a crash never leaves half of one."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from proteinlm import checkpoint
from proteinlm.checkpoint import sharded
from proteinlm.storage.atomic import delete, written_whole
from proteinlm.storage.checksums import seal


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old ones, syncs it, and renames it: a crash never leaves half of one.

    It reads those that a sharded strategy wrote, too.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if Path(path).is_dir():  # of a run on several processes, which went back to before it; a file cannot replace it
            delete(Path(path))
        with written_whole(Path(path)) as file, seal(file) as content:
            torch.save(checkpoint, content)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not Path(path).is_dir():
            return super().load_checkpoint(path, *args, **kwargs)
        tensors, rest = sharded.load_whole(Path(path))
        return rest | checkpoint.lightning_entries(tensors)


class Checkpoints(L.Callback):
    """Saves at step boundaries, `seconds` apart, and after each validation.

    All processes must agree on when: the first measures how long a step takes, and tells the others with each
    checkpoint how many steps the next is away.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory, self.seconds = directory, seconds
        self.due = 1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved, self.saved_at = trainer.global_step, time.monotonic()
        self.due = trainer.global_step + 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        validates_next = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if trainer.global_step >= self.due and trainer.global_step > self.saved and not validates_next:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint now, at the end of a step, and decide when the next is due."""
        step = trainer.global_step
        steps, elapsed = step - self.saved, time.monotonic() - self.saved_at
        trainer.save_checkpoint(checkpoint.path(self.directory, step))
        if trainer.is_global_zero:
            checkpoint.discard_old(self.directory)
        apart = max(1, int(steps * self.seconds / max(elapsed, 1e-9))) if steps else 1
        # the first step is slow: do not let it decide for long
        apart = trainer.strategy.broadcast(min(apart, max(1, 10 * steps)))
        self.saved, self.saved_at, self.due = step, time.monotonic(), step + apart
