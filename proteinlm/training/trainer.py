"""What every training stage shares: the machine it runs on, the Trainer, checkpoints and progress."""

import json
import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proteinlm import planner
from proteinlm.config import MachineConfig, StageConfig, StrategyConfig
from proteinlm.errors import InputError
from proteinlm.launch import cores, processes
from proteinlm.parallel.module import data_processes
from proteinlm.storage.atomic import write_text
from proteinlm.training import strategies
from proteinlm.training.checkpoints import Checkpoints, WholeCheckpoints
from proteinlm.training.preemption import Preemption
from proteinlm.training.tracking import HOURS, TOKENS, Tracker

PROGRESS = "progress.json"
"""In the run directory: how far the stage is, for whoever watches from outside."""

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints and tips, not its warnings
warnings.filterwarnings("ignore", module="lightning", message=".*LeafSpec.*")
warnings.filterwarnings(
    "ignore", module="lightning", message=".*`srun` command is available.*"
)  # also where jobs start
warnings.filterwarnings("ignore", module="lightning", message=".*does not have many workers.*")
warnings.filterwarnings(
    "ignore", module="lightning", message=".*number of training batches.*smaller than the logging.*"
)
warnings.filterwarnings("ignore", module="lightning", message=".*recommended to use `self.log.*sync_dist.*")


@dataclass(frozen=True)
class Machine:
    """What a process computes on."""

    accelerator: str
    precision: str
    threads: int
    hardware: str
    compiled: bool = False


def settle(train: MachineConfig, strategy: StrategyConfig) -> Machine:
    """Choose accelerator, precision and threads, and tell torch."""
    if train.accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("train.accelerator=cuda, but torch finds no CUDA device")
    cuda = train.accelerator != "cpu" and torch.cuda.is_available()
    threads = train.threads or cores.threads(strategy.devices)
    torch.set_num_threads(threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition
    torch.use_deterministic_algorithms(train.deterministic)
    fast_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_multiplies_bf16()
    precision = train.precision if train.precision != "auto" else ("bf16-mixed" if fast_bf16 else "fp32")
    hardware = torch.cuda.get_device_name() if cuda else f"{_cpu_name()}, {cores.physical_cores()} cores"
    return Machine("cuda" if cuda else "cpu", precision, threads, hardware, train.compile)


def hardware(machine: Machine, config: StageConfig) -> planner.Hardware:
    """What the planner must reckon with."""
    if config.hardware != "auto":
        return planner.hardware_named(config.hardware, config.strategy.devices)
    if machine.accelerator == "cuda":
        return planner.gpu(machine.hardware, torch.cuda.get_device_properties().total_memory)
    return planner.processor(config.strategy.devices)


class Budget(NamedTuple):
    """How long a Trainer trains, and how it takes a step."""

    steps: int
    micro_batches: int
    """Of one step, over all processes."""
    max_grad_norm: float


def announce(name: str, parameters: int, machine: Machine, step: int) -> None:
    """Say what is about to be trained, and on what."""
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    start = f"going on after step {step}" if step else "from the start"
    line = f"{name}  {parameters:,} parameters, {machine.precision}, {threads}, {machine.hardware}; {start}"
    print(line, file=sys.stderr, flush=True)


def next_validation(done: int, steps: int, validations: int) -> int:
    """The step after which the next of `validations` evenly spread over `steps` steps comes, `done` of them done."""
    return next((after for k in range(validations) if (after := -(-steps * (k + 1) // validations)) > done), steps)


def build_trainer(
    strategy: StrategyConfig, machine: Machine, budget: Budget, directory: Path, callbacks: list[L.Callback]
) -> L.Trainer:
    """A Trainer whose epochs are the stretches between two validations."""
    plugins: list[Any] = [WholeCheckpoints()]
    if processes.in_slurm_job():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # its own answer to signals would save amid a step
        callbacks = [*callbacks, *(Preemption(one) for one in callbacks if isinstance(one, Checkpoints))]
    return L.Trainer(
        accelerator="gpu" if machine.accelerator == "cuda" else "cpu",
        devices=strategy.devices,
        num_nodes=strategy.nodes,
        strategy=strategies.strategy(strategy),
        precision="bf16-mixed" if machine.precision == "bf16-mixed" else "32-true",
        max_steps=budget.steps,
        max_epochs=-1,
        accumulate_grad_batches=budget.micro_batches // strategy.data_processes,
        gradient_clip_val=budget.max_grad_norm or None,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=plugins,
        callbacks=[strategies.Arrangement(strategy, machine.compiled), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )


class Report(L.Callback):
    """Loss, scores, speed and time left: on the screen, in the tracker, and in ``progress.json``."""

    LINE_SECONDS = 15.0
    """Between lines where there is no terminal to draw a bar on."""

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
            figures["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
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
        elif now - self.lined >= self.LINE_SECONDS or step == self.steps:
            self.lined = now
            print(f"{self.name}  step {step}/{self.steps}  {figures}  {_clock(left)} left", file=sys.stderr, flush=True)
        if now - self.watched >= 1:
            self.watched = now
            seen = {"name": self.name, "step": step, "steps": self.steps, "left": left, **self.last}
            write_text(self.directory / PROGRESS, json.dumps(seen))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions for it; emulated, bf16 is slower than fp32."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
