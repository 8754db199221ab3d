"""Stops a run because of a signal: at the end of a step, saved, in all processes alike; on Slurm, to be requeued."""

import os
import signal
import time
from functools import cache
from typing import Any, NoReturn

import lightning as L
import torch
from torch import distributed

from proteinlm.launch import processes, signals
from proteinlm.launch.signals import GOES_ON, Stopped
from proteinlm.training.checkpoints import Checkpoints

PREEMPTION = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
"""The signal that Slurm sends before a job's time is up, because submitit asked for it."""


class Stopping(L.Callback):
    """Asks for signals when training starts, after each step and validation, and between the batches of scoring.

    A signal may reach one process of a group alone, or all at different times: the processes agree on the step at which
    they stop. `checkpoints` is None for a Trainer that only scores. Must come after `checkpoints` among the callbacks.
    """

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        self.checkpoints = checkpoints
        self.replaced: dict[int, Any] = {}
        """Handlers of a job on Slurm, where submitit has installed its own."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if processes.in_slurm_job():
            for number in (PREEMPTION, signal.SIGTERM):
                self.replaced[number] = signal.signal(number, signals.request_stop)
        signals.defer()
        self._stop_if_agreed(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loop = trainer.fit_loop.epoch_loop
        # a validation comes before the checkpoint of its step, or it would be left out
        if not loop._should_accumulate() and not loop.batch_progress.is_last_batch:
            self._stop_if_agreed(trainer, self.checkpoints)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.defer()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == "validate":
            self._stop_if_agreed(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._stop_if_agreed(trainer)  # the checkpoint has been saved

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number, handler in self.replaced.items():
            signal.signal(number, handler)

    def _stop_if_agreed(self, trainer: L.Trainer, unsaved: Checkpoints | None = None) -> None:
        """Leave if a process of the group was asked to; `unsaved` checkpoints are written first."""
        number = requested_of_group(trainer)
        if not number:
            return
        if unsaved:
            unsaved.save(trainer)
        if number == PREEMPTION:
            self._requeue(trainer)
        when = f"after step {trainer.global_step}" if trainer.global_step else "before the first step"
        raise Stopped(number, f"stopped {'while scoring' if trainer.state.fn == 'validate' else when}; {GOES_ON}")

    def _requeue(self, trainer: L.Trainer) -> NoReturn:
        """Let submitit put the job back into the queue, which ends it."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            answer = self.replaced[PREEMPTION]
            assert callable(answer)
            answer(PREEMPTION, None)
        time.sleep(60)  # the others are ended with the job; to exit by themselves might end the first too early
        raise SystemExit(1)


def requested_of_group(trainer: L.Trainer) -> int:
    """The signal that has asked any process of the group to stop, or 0; the same in all of them, which must all ask."""
    own = signals.stop_requested() or 0
    if trainer.world_size == 1:
        return own
    asked = torch.tensor(own)
    distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=_cpu_group())
    return int(asked)


@cache
def _cpu_group() -> Any:
    """The processes connected by their CPUs, so that asking does not wait for a GPU; None: they are so by default."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
