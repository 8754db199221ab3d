"""Stops or skips on losses and gradients that are not finite, and records loss spikes."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from proteinlm import optim
from proteinlm.errors import InputError
from proteinlm.parallel.module import data_processes
from proteinlm.records.run_directory import ANOMALIES
from proteinlm.tasks.base import TaskModule
from proteinlm.training.checkpoints import Checkpoints

Records = Callable[[int], Sequence[np.ndarray]]
"""A function from the number of steps done to the record numbers of the next step's micro-batches."""


class Guard(L.Callback):
    """Holds back an update whose loss or gradient is not finite, then stops the run or counts the step.

    The update is held back on the device, which is asked how things went every `EVERY` steps, before a validation and
    before a checkpoint; a CPU, after every step. Until then ``stop`` holds back all later updates too: the weights are
    still those before the first bad step. All processes judge by sums over all of them, and so alike.
    """

    EVERY: Mapping[str, int] = MappingProxyType({"cpu": 1, "cuda": 16})
    IN_A_ROW = 16
    """Steps skipped on end, after which no later one will be any better: the weights no longer change."""
    SPIKE, MEMORY, FEWEST = 6.0, 0.98, 20
    """A spike is so many standard deviations above the mean, both with this memory, once so many steps have been seen."""

    def __init__(self, directory: Path, answer: str, saving: Checkpoints, records: Records) -> None:
        self.directory, self.answer, self.saving, self.records = directory, answer, saving, records
        self.skipped = self.in_a_row = self.seen = 0
        self.mean = self.variance = 0.0
        self.micro: list[Tensor] = []  # losses of this process's micro-batches of the current step
        self.pending: list[tuple[int, Tensor, list[Tensor]]] = []  # step, (loss, norm, held back), losses as above
        self.held: Tensor | None = None
        self.statistics: list[tuple[Tensor, Tensor]] = []  # of batches, in the head, and as they were before the step

    def state_dict(self) -> dict[str, Any]:
        self.flush()  # a checkpoint must not be made of steps that nobody has looked at
        names = ("skipped", "in_a_row", "seen", "mean", "variance")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        self.trainer, self.module = trainer, pl_module
        self.every = self.EVERY[pl_module.device.type]
        pl_module.judge = self.judge

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.micro:  # the first of a step
            assert isinstance(pl_module, TaskModule)
            self.statistics = [(buffer, buffer.clone()) for buffer in pl_module.statistics()]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.micro.append(loss.detach())

    def judge(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Hold the update back if the step's loss or its gradient's `norm` is not finite anywhere."""
        loss = self.module.step_loss.to(norm)
        facts = torch.stack((loss, norm, (~(loss + norm).isfinite()).to(norm)))
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(facts)
        held = facts[2].clamp(max=1)
        if self.answer == "stop" and self.held is not None:
            held = torch.maximum(held, self.held)
        self.held = held
        optim.skip_update(optimizer, held)
        for buffer, before in self.statistics:  # a forward pass has changed them
            buffer.copy_(torch.where(held > 0, before, buffer))
        self.pending.append((self.trainer.global_step, torch.stack((facts[0], norm, held)), self.micro))
        self.micro = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if len(self.pending) >= self.every or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.flush()

    def flush(self) -> None:
        """Read from the device how the steps since the last flush went, and act on it."""
        if not self.pending:
            return
        facts = torch.stack([facts for _, facts, _ in self.pending]).tolist()
        pending, self.pending = self.pending, []
        shared = self.trainer.world_size // data_processes(self.module.data_group)  # processes that add the same loss
        for (step, _, micro), (loss, norm, held) in zip(pending, facts, strict=True):
            if held and self.answer == "stop":
                self._stop(step, micro, loss / shared)
            elif held:
                self._skip(step, micro, loss / shared)
            else:
                self.in_a_row = 0
                self._compare(step, micro, loss / shared, norm)

    def _stop(self, step: int, micro: list[Tensor], loss: float) -> None:
        what, records = self._what(loss), self._blamed(step, micro, lambda losses: ~losses.isfinite())
        self._rewind(step)
        self.saving.save(self.trainer)
        self._note("stopped", step, loss, records)
        raise InputError(
            f"{self.directory}: {what} in step {step + 1}, from {list_records(records)}; saved as it was before it. Look at "
            "these records, lower the learning rate, or go on without such steps with train.nonfinite=skip"
        )

    def _skip(self, step: int, micro: list[Tensor], loss: float) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        records = self._blamed(step, micro, lambda losses: ~losses.isfinite())
        self._note("skipped", step, loss, records)
        if self.in_a_row == self.IN_A_ROW:
            self.in_a_row = 0
            self.saving.save(self.trainer)
            raise InputError(
                f"{self.directory}: {self._what(loss)} in {self.IN_A_ROW} steps on end, up to step {step + 1}, the last "
                f"from {list_records(records)}; saved. Lower the learning rate"
            )

    def _compare(self, step: int, micro: list[Tensor], loss: float, norm: float) -> None:
        """Note a loss far above those before it, and remember it."""
        limit = self.mean + self.SPIKE * sqrt(self.variance) if self.seen >= self.FEWEST else inf
        if loss > limit:
            records = self._blamed(step, micro, lambda losses: losses == losses.max())
            self._note("spike", step, loss, records, usual=self.mean, gradient_norm=norm)
            loss = limit
        self.seen += 1
        weight = max(1 - self.MEMORY, 1 / self.seen)
        away = loss - self.mean
        self.mean += weight * away
        self.variance = (1 - weight) * (self.variance + weight * away * away)

    def _blamed(self, step: int, micro: list[Tensor], chosen: Callable[[Tensor], Tensor]) -> list[int]:
        """Record numbers of the micro-batches of a step whose losses are `chosen`; of all, if none is."""
        batches = self.records(step)
        losses = torch.zeros(len(batches), device=self.module.device)
        world = data_processes(self.module.data_group)
        rank = torch.distributed.get_rank(self.module.data_group) if world > 1 else 0
        losses[rank::world] = torch.stack(micro).to(losses)
        if world > 1:
            torch.distributed.all_reduce(losses, group=self.module.data_group)
        picked = chosen(losses).tolist()
        kept = [batch for batch, is_picked in zip(batches, picked, strict=True) if is_picked] or batches
        return [int(record) for batch in kept for record in batch]

    def _rewind(self, step: int) -> None:
        """The weights are those after `step` steps; let everything else be."""
        self.held = None
        progress = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = step
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.load_state_dict({"last_epoch": step})

    @staticmethod
    def _what(loss: float) -> str:
        return "the gradient is not finite" if np.isfinite(loss) else "the loss is not finite"

    def _note(self, kind: str, step: int, loss: float, records: list[int], **more: float) -> None:
        if not self.trainer.is_global_zero:
            return
        anomaly = {"kind": kind, "step": step + 1, "loss": loss if np.isfinite(loss) else str(loss), **more}
        with (self.directory / ANOMALIES).open("a") as file:
            file.write(json.dumps(anomaly | {"records": records}) + "\n")
        if kind != "stopped":
            usual = f" after {more['usual']:.3g}" if more else ""
            print(
                f"step {step + 1} {kind}: loss {loss:.3g}{usual}, from {list_records(records)}",
                file=sys.stderr,
                flush=True,
            )


def list_records(records: list[int]) -> str:
    """Name some of the record numbers, for a message of one line."""
    shown = ", ".join(map(str, records[:10]))
    return f"training records {shown}" + (f" and {len(records) - 10} more ({ANOMALIES})" if len(records) > 10 else "")
