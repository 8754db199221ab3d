"""What all tasks have in common: a backbone, an optimiser, and a step counter that says where the run stands."""

from abc import ABC, abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from proteinlm import foreign, optim
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.seeding import reseed


class TaskModule(L.LightningModule, ABC):
    """A backbone with something on top that can be trained and scored.

    The loss of an optimiser step is the sum over its targets divided by their number, over all its micro-batches on all
    processes: the same whichever way a step is divided.
    """

    backbone: nn.Module

    def __init__(self, model: ModelConfig, optim_config: OptimConfig, steps: int, micro_batches: int) -> None:
        super().__init__()
        self.backbone = foreign.build(model)
        self.optim_config, self.steps, self.micro_batches = optim_config, steps, micro_batches
        self.step_loss = torch.zeros(())  # of the current step, this process's share

    @abstractmethod
    def summed_loss(self, batch: Any) -> Tensor:
        """The loss summed over all targets of a micro-batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        reseed(batch.seed, self.device)  # dropout follows from the micro-batch, not from what ran before it
        loss = self.summed_loss(batch) / batch.step_targets
        self.step_loss = self.step_loss.to(loss.device) + loss.detach()
        # Lightning divides by this process's micro-batches of a step, DDP by the processes: together by all of them
        return loss * self.micro_batches

    def loss_of_step(self) -> float:
        """Loss of the step just finished, over all processes; called once per step, by all of them."""
        loss, self.step_loss = self.step_loss, torch.zeros_like(self.step_loss)
        return self.summed_over_processes(loss).item()

    def figures(self, loss: float) -> dict[str, float]:
        """What to show of a step, given its loss."""
        return {"train/loss": loss}

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def configure_optimizers(self) -> Any:
        optimizer, schedule = optim.build(self, self.optim_config, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the number of steps done, and from nothing else.

        Lightning's own record of epochs and batches fits only the process count and the moment it was written at;
        our batches, masks and dropout follow from the step alone, so that record is dropped.
        """
        del checkpoint["loops"]
        progress = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = checkpoint["global_step"]

    def summed_over_processes(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(value)
        return value
