"""What all tasks have in common: a backbone, an optimiser, and a step counter that says where the run stands."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from proteinlm import checkpoint as files
from proteinlm import optim
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.models import registry
from proteinlm.models.seeding import reseed
from proteinlm.optim.muon import MuonAdamW
from proteinlm.parallel.module import SpreadModule


class TaskModule(SpreadModule, ABC):
    """A backbone with something on top that can be trained and scored.

    The loss of an optimiser step is the sum over its targets divided by their number, over all its micro-batches on all
    processes: the same whichever way a step is divided.
    """

    backbone: nn.Module
    resumed: Mapping[str, Any] = MappingProxyType({})
    """The states of callbacks in the checkpoint that was loaded, which Lightning gives them in training alone."""
    judge: Callable[[Optimizer, Tensor], None] | None = None
    """Told the norm of a step's gradient before the update, which it may hold back."""

    def __init__(self, model: ModelConfig, optim_config: OptimConfig, steps: int, micro_batches: int) -> None:
        super().__init__()
        self.backbone = registry.build(model)
        self.model_config, self.optim_config = model, optim_config
        self.steps, self.micro_batches = steps, micro_batches
        self.step_loss = torch.zeros(())  # of the current step, this process's share

    @abstractmethod
    def summed_loss(self, batch: Any) -> Tensor:
        """The loss summed over all targets of a micro-batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.share_of_loss(batch)
        self.step_loss = self.step_loss.to(loss.device) + loss.detach()
        # Lightning divides by this process's micro-batches of a step, DDP and FSDP by the processes that have different
        # ones: together by all of them
        return loss * self.micro_batches

    def share_of_loss(self, batch: Any) -> Tensor:
        """What a micro-batch adds to the loss of its step."""
        reseed(batch.seed, self.device)  # dropout follows from the micro-batch, not from what ran before it
        return self.summed_loss(batch) / batch.step_targets

    def statistics(self) -> list[Tensor]:
        """Buffers that a forward pass changes in training: means and variances of batches."""
        return []

    def loss_of_step(self) -> float:
        """Loss of the step just finished, over all processes; called once per step, by all of them."""
        loss, self.step_loss = self.step_loss, torch.zeros_like(self.step_loss)
        return self.summed_over_processes(loss).item()

    def figures(self, loss: float) -> dict[str, float]:
        """The numbers to show of a step, given its loss."""
        return {"train/loss": loss}

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def configure_optimizers(self) -> Any:
        optimizer, schedule = optim.build(
            self,
            self.optim_config,
            self.steps,
            self.model_config,
            self.make_optimizer or MuonAdamW,
            bf16=self.trainer.precision == "bf16-mixed",
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        norm = optim.clip(parameters, gradient_clip_val or math.inf)
        if self.judge:
            self.judge(optimizer, norm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the number of steps done, and from nothing else.

        Lightning's own record of epochs and batches fits only the process count and the moment it was written at;
        our batches, masks and dropout follow from the step alone, so that record is dropped.
        """
        if "state_dict" in checkpoint:  # sharded strategies have read and checked it themselves
            origin = f"{self.trainer.ckpt_path or 'checkpoint'}: another architecture"
            files.check(origin, checkpoint["state_dict"], self.state_dict())
        del checkpoint["loops"]
        self.resumed = checkpoint.get("callbacks", {})
        progress = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = checkpoint["global_step"]

    def summed_over_processes(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes that compute different micro-batches."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(value, group=self.data_group)
        return value
