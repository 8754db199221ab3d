"""The Trainer that both stages use, and what is said before it starts."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from proteinlm import planner
from proteinlm.config import StageConfig, StrategyConfig
from proteinlm.device import TrainingDevice
from proteinlm.launch import processes
from proteinlm.training import strategies
from proteinlm.training.checkpoints import Checkpoints, WholeCheckpoints
from proteinlm.training.stopping import Stopping

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


def hardware(device: TrainingDevice, config: StageConfig) -> planner.Hardware:
    """The hardware that the planner counts with."""
    if config.hardware != "auto":
        return planner.hardware_named(config.hardware, config.strategy.devices)
    if device.accelerator == "cuda":
        return planner.gpu(device.hardware, torch.cuda.get_device_properties().total_memory)
    return planner.processor(config.strategy.devices)


class Budget(NamedTuple):
    """How long a Trainer trains, and how it takes a step."""

    steps: int
    micro_batches: int
    """Of one step, over all processes."""
    max_grad_norm: float


def announce(name: str, parameters: int, device: TrainingDevice, step: int) -> None:
    """Print the model, the precision, the hardware and the step that training starts from."""
    threads = f"{device.threads} thread{'s' if device.threads > 1 else ''}"
    start = f"going on after step {step}" if step else "from the start"
    line = f"{name}  {parameters:,} parameters, {device.precision_name}, {threads}, {device.hardware}; {start}"
    print(line, file=sys.stderr, flush=True)


def next_validation(done: int, steps: int, validations: int) -> int:
    """The step after which the next of `validations` evenly spread over `steps` steps comes, `done` of them done."""
    return next((after for k in range(validations) if (after := -(-steps * (k + 1) // validations)) > done), steps)


def build_trainer(
    strategy: StrategyConfig, device: TrainingDevice, budget: Budget, directory: Path, callbacks: list[L.Callback]
) -> L.Trainer:
    """A Trainer whose epochs are the stretches between two validations."""
    plugins: list[Any] = [WholeCheckpoints()]
    if processes.in_slurm_job():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # its own answer to signals would save amid a step
    saving = next((one for one in callbacks if isinstance(one, Checkpoints)), None)
    trainer = L.Trainer(
        accelerator="gpu" if device.accelerator == "cuda" else "cpu",
        devices=strategy.devices,
        num_nodes=strategy.nodes,
        strategy=strategies.strategy(strategy),
        precision="bf16-mixed" if device.precision == "bf16-mixed" else "32-true",
        max_steps=budget.steps,
        max_epochs=-1,
        accumulate_grad_batches=budget.micro_batches // strategy.data_processes,
        gradient_clip_val=budget.max_grad_norm or None,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=plugins,
        callbacks=[strategies.Arrangement(strategy, device.compiled, device.fp8), *callbacks, Stopping(saving)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )
    # Lightning's own answer to SIGTERM sends from inside a handler, saves nothing, and ends with status 0; to learn of it,
    # processes would meet before every micro-batch
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    return trainer
