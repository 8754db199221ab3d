"""What a job does when its time is up: it finishes the step, saves, and is put back into the queue."""

import os
import signal
import time
from types import FrameType
from typing import Any

import lightning as L

from proteinlm.training.checkpoints import Checkpoints

SIGNAL = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
"""What Slurm sends before the end, because submitit asked it to."""


class Preemption(L.Callback):
    """Defers submitit's answer to `SIGNAL`, which is to requeue the job on the spot, to the end of the step.

    All processes get the signal, not all at the same time: they agree after each step.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.noted = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.answer = signal.getsignal(SIGNAL)
        signal.signal(SIGNAL, self._note)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loop = trainer.fit_loop.epoch_loop
        # a validation comes before the checkpoint of its step, or it would be left out
        if not loop._should_accumulate() and not loop.batch_progress.is_last_batch and self._agreed(trainer):
            self.checkpoints.save(trainer)
            self._leave(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._agreed(trainer):
            self._leave(trainer)  # the checkpoint has been saved

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signal.signal(SIGNAL, self.answer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True

    def _agreed(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.noted, all=False)

    def _leave(self, trainer: L.Trainer) -> None:
        signal.signal(SIGNAL, self.answer)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            assert callable(self.answer)
            self.answer(SIGNAL, None)  # requeues, and exits
        time.sleep(60)  # the others are ended with the job; to exit by themselves might end the first too early
        raise SystemExit(1)
