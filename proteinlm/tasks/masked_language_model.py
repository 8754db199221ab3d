"""Pretraining: recover the residues hidden from the input (paper section 3.1)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from proteinlm.backbone import Backbone
from proteinlm.config import RunConfig
from proteinlm.data.loader import MaskedBatch
from proteinlm.heads import LanguageModelHead
from proteinlm.intervals import Sample
from proteinlm.metrics import ResidueLoss
from proteinlm.parallel import initial
from proteinlm.tasks.base import TaskModule


class MaskedLanguageModel(TaskModule):
    """Cross-entropy on the masked residues; scored by perplexity."""

    def __init__(self, config: RunConfig, evaluations: tuple[str, ...]) -> None:
        with initial.noted(config.strategy.sharded) as self.draws:
            super().__init__(config.backbone, config.optim, config.train.steps, config.train.micro_batches)
            self.head = LanguageModelHead(config.backbone)
        if self.draws:
            self.draws.know(self)
            self.step_loss = torch.zeros(())
        self.evaluations = evaluations
        self.losses = MetricCollection({split: ResidueLoss() for split in evaluations}, compute_groups=False)
        self.scored: dict[str, Sample] = {}  # the loss of each split, protein by protein

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Loss in nats of each masked residue, (K,) float32."""
        tokens, starts, longest, _ = batch.masked.packed
        hidden = self.backbone(tokens, starts, longest)  # (T, H)
        masked = hidden.index_select(0, batch.masked.positions)  # (K, H)
        assert isinstance(self.backbone, Backbone)
        logits = self.head(masked, self.backbone.token_embedding.weight)  # (K, V)
        return F.cross_entropy(logits.float(), batch.masked.targets, reduction="none")

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
            self.scored[split] = metric.per_record()["loss"]
            loss = self.scored[split].estimate()
            self.log_dict({f"{split}/loss": loss, f"{split}/perplexity": math.exp(loss)})
