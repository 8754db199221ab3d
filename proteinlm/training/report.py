"""Reports loss, scores, speed and time left on the screen, to the tracker, and in ``progress.json``.

Of scoring, it reports how far it is.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim import Optimizer

from proteinlm.data.progress import Bar
from proteinlm.parallel.module import data_processes
from proteinlm.records.run_directory import PROGRESS
from proteinlm.storage.atomic import write_text
from proteinlm.training.tracking import HOURS, TOKENS, Tracker

LINE_SECONDS = 15.0
"""Between lines where there is no terminal to draw a bar on."""


class Report(L.Callback):
    """Loss, scores, speed and time left: on the screen, in the tracker, and in ``progress.json``."""

    def __init__(self, name: str, directory: Path, tracker: Tracker | None, steps: int) -> None:
        self.name, self.directory, self.tracker, self.steps = name, directory, tracker, steps
        self.every = max(1, steps // 500)
        self.seconds = 0.0  # of training, over all attempts
        self.tokens = 0  # likewise
        self.progress: dict[str, float] = {}
        """Tokens and hours after the latest step."""
        self.last: dict[str, float] = {}
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds + time.monotonic() - self.began, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.tokens = state_dict["seconds"], state_dict.get("tokens", 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = self.lined = self.watched = time.monotonic()
        self.validated = 0.0  # seconds, of which no speed of training is made
        self.first_step, self.residues = trainer.global_step, 0
        if trainer.is_global_zero and self.console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self.bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.steps, completed=trainer.global_step, figures="")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        self.learning_rate = optimizer.param_groups[0]["lr"]  # after the step it is already that of the next one

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        processes = data_processes(pl_module.data_group)
        self.residues += batch.residues * processes
        self.tokens += (batch.residues + len(batch.records)) * processes
        step = trainer.global_step
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self.progress = {TOKENS: self.tokens, HOURS: (self.seconds + time.monotonic() - self.began) / 3600}
        if step % self.every and step != self.steps:
            pl_module.step_loss.zero_()
            return
        loss = pl_module.loss_of_step()
        if not trainer.is_global_zero:
            return
        rate = self.residues / (time.monotonic() - self.began - self.validated)
        figures = pl_module.figures(loss)
        shown = "  ".join(f"{name.removeprefix('train/')} {value:.3f}" for name, value in figures.items())
        self.last.update(figures)
        if self.tracker:
            figures["train/learning_rate"] = self.learning_rate
            figures["progress/residues_per_second"] = rate
            self.tracker.log(figures | self.progress, step)
        self._show(step, f"{shown}  {rate:,.0f} res/s")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.validated += time.monotonic() - self.validation_began
        if not trainer.is_global_zero:
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.state.fn == "fit":
            if self.tracker:
                self.tracker.log(scores | self.progress, trainer.global_step)
            self.last.update(scores)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds += time.monotonic() - self.began
        self.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _show(self, step: int, figures: str) -> None:
        now = time.monotonic()
        left = (now - self.began) / max(1, step - self.first_step) * (self.steps - step)
        if self.bar:
            self.bar.update(self.task, completed=step, figures=figures)
        elif now - self.lined >= LINE_SECONDS or step == self.steps:
            self.lined = now
            print(f"{self.name}  step {step}/{self.steps}  {figures}  {_clock(left)} left", file=sys.stderr, flush=True)
        if now - self.watched >= 1:
            self.watched = now
            seen = {"name": self.name, "step": step, "steps": self.steps, "left": left, **self.last}
            write_text(self.directory / PROGRESS, json.dumps(seen))


class Scoring(L.Callback):
    """How many of `total` proteins are scored, and the time left, on the screen alone."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.bar = Bar(f"{name}  scoring", total, of_bytes=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = self.lined = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero:
            return
        scored = min(len(batch.records) * data_processes(pl_module.data_group), self.total - self.done)
        self.done += scored
        self.bar.advance(scored)
        now = time.monotonic()
        if sys.stderr.isatty() or now - self.lined < LINE_SECONDS:
            return
        self.lined = now
        left = (now - self.began) / self.done * (self.total - self.done)
        counted = f"scored {self.done:,}/{self.total:,} proteins"
        print(f"{self.name}  {counted}  {_clock(left)} left", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
