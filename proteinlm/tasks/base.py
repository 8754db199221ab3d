"""What all tasks have in common: a backbone, an optimiser, and a step counter that says where the run stands."""

from abc import ABC, abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor

from proteinlm import optim
from proteinlm.backbone import Backbone
from proteinlm.config import ModelConfig, OptimConfig


class TaskModule(L.LightningModule, ABC):
    """A backbone with something on top that can be trained and scored."""

    backbone: Backbone

    def __init__(self, model: ModelConfig, optim_config: OptimConfig, steps: int) -> None:
        super().__init__()
        self.backbone = Backbone(model)
        self.optim_config, self.steps = optim_config, steps

    @abstractmethod
    def training_step(self, batch: Any, batch_idx: int) -> Tensor: ...

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
