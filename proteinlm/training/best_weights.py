"""Selects the weights of a fine-tuning to keep, and the step at which it ends, by the validation score alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from proteinlm import checkpoint
from proteinlm.checkpoint import best_of, discard_all_but
from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.models.lora import Adapter, Factors
from proteinlm.tasks import task_file
from proteinlm.tasks.labelled import LabelledTask


class Selection(L.Callback):
    """Saves the weights whenever their validation score is the best so far; ends training when it no longer improves.

    The best weights are named by their step, which the checkpoints know too: an attempt that goes on from before the
    latest best finds the weights that were the best then.
    """

    def __init__(self, directory: Path, shape: ModelConfig, patience: int, adapter: Adapter | None = None) -> None:
        self.directory, self.shape, self.patience, self.adapter = directory, shape, patience, adapter
        self.step, self.score, self.stale = 0, -math.inf, 0

    def best_step(self) -> int:
        """The step of the best weights; `InputError` if no score was a number."""
        if not self.step:
            raise InputError(
                "no validation score was a number: the labels of valid are all equal, or task.learning_rate is too high"
            )
        return self.step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "score": self.score, "stale": self.stale}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.step, self.score, self.stale = (state_dict[name] for name in ("step", "score", "stale"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self._exhausted()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, LabelledTask)
        score = pl_module.samples["valid"][pl_module.score].estimate()
        if score > self.score:  # never true of nan
            self._keep(pl_module, trainer)
            self.step, self.score, self.stale = trainer.global_step, score, 0
        else:
            self.stale += 1
        trainer.should_stop = self._exhausted()

    def _exhausted(self) -> bool:
        return 0 < self.patience <= self.stale

    def _keep(self, module: LabelledTask, trainer: L.Trainer) -> None:
        """Save the new best; the one before stays until no checkpoint asks for it any more."""
        if trainer.is_global_zero:
            discard_all_but(self.directory, self.step)
        best = best_of(self.directory, trainer.global_step)
        parts = module.parts()
        if self.adapter:
            parts["backbone"] = Factors(module.backbone, with_base=not self.adapter.base)
        checkpoint.save_weights(best, parts, self.shape)
        if trainer.is_global_zero:
            task_file.save(best, module.config)
            if self.adapter:
                self.adapter.save(best)
