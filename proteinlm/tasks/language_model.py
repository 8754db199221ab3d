"""What kinds of pretraining have in common: a loss for each residue that is predicted, scored by perplexity."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from proteinlm.config import RunConfig
from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.parallel import deferred_init
from proteinlm.records.bootstrap import Sample
from proteinlm.tasks.base import TaskModule
from proteinlm.tasks.metrics import ResidueLoss


class LanguageModel(TaskModule, ABC):
    """A backbone and a head that predict residues."""

    head: nn.Module

    def __init__(self, config: RunConfig, evaluations: tuple[str, ...]) -> None:
        with deferred_init.record_init(config.strategy.sharded) as self.init_recorder:
            super().__init__(config.backbone, config.optim, config.train.steps, config.train.micro_batches)
            self.head = self.make_head(config)
        if self.init_recorder:
            self.init_recorder.name_parameters(self)
            self.step_loss = torch.zeros(())
        self.evaluations = evaluations
        self.losses = MetricCollection({split: ResidueLoss() for split in evaluations}, compute_groups=False)
        self.samples: dict[str, Sample] = {}  # the loss of each split, protein by protein

    @abstractmethod
    def make_head(self, config: RunConfig) -> nn.Module:
        """The module that predicts residues from hidden states."""

    @abstractmethod
    def forward(self, batch: MaskedBatch) -> Tensor:
        """Loss in nats of each residue that is predicted, (K,) float32."""

    def summed_loss(self, batch: MaskedBatch) -> Tensor:
        return self(batch).sum()

    def figures(self, loss: float) -> dict[str, float]:
        return {"train/loss": loss, "train/perplexity": math.exp(min(20.0, loss))}

    def validation_step(self, batch: MaskedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        starts = batch.masked.packed.starts
        metric = self.losses[self.evaluations[dataloader_idx]]
        metric.update(self(batch), batch.masked.positions, starts, batch.records)

    def on_validation_epoch_start(self) -> None:
        self.losses.reset()

    def on_validation_epoch_end(self) -> None:
        for split in self.evaluations:
            metric = self.losses[split]
            assert isinstance(metric, ResidueLoss)
            self.samples[split] = metric.per_record()["loss"]
            loss = self.samples[split].estimate()
            self.log_dict({f"{split}/loss": loss, f"{split}/perplexity": math.exp(loss)})
