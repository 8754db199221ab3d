"""Pretraining: recover the residues hidden from the input (paper section 3.1)."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from proteinlm.config import RunConfig
from proteinlm.data.loader import MaskedBatch
from proteinlm.heads import LanguageModelHead
from proteinlm.tasks.base import TaskModule


class MaskedLanguageModel(TaskModule):
    """Cross-entropy on the masked residues; scored by perplexity.

    The loss of an optimiser step is the sum over its masked residues divided by their number, over all its
    micro-batches on all processes: the same whichever way a step is divided.
    """

    def __init__(self, config: RunConfig, evaluations: tuple[str, ...]) -> None:
        super().__init__(config.backbone, config.optim, config.train.steps)
        self.head = LanguageModelHead(config.backbone)
        self.micro_batches = config.train.micro_batches
        self.evaluations = evaluations
        self.losses = MetricCollection({split: LossOfProteins() for split in evaluations}, compute_groups=False)
        self.scored: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # per protein: summed loss, masked residues
        self.step_loss = torch.zeros(())  # of the current step, this process's share

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Loss in nats of each masked residue, (K,) float32."""
        tokens, starts, longest, _ = batch.masked.packed
        hidden = self.backbone(tokens, starts, longest)  # (T, H)
        masked = hidden.index_select(0, batch.masked.positions)  # (K, H)
        logits = self.head(masked, self.backbone.token_embedding.weight)  # (K, V)
        return F.cross_entropy(logits.float(), batch.masked.targets, reduction="none")

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        torch.manual_seed(batch.seed)  # dropout follows from the micro-batch, not from what ran before it
        loss = self(batch).sum() / batch.step_targets
        self.step_loss = self.step_loss.to(loss.device) + loss.detach()
        # Lightning divides by this process's micro-batches of a step, DDP by the processes: together by all of them
        return loss * self.micro_batches

    def loss_of_step(self) -> float:
        """Loss of the step just finished, over all processes; called once per step, by all of them."""
        loss, self.step_loss = self.step_loss, torch.zeros_like(self.step_loss)
        return self.summed_over_processes(loss).item()

    def validation_step(self, batch: MaskedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.losses[self.evaluations[dataloader_idx]].update(self(batch), batch)

    def on_validation_epoch_start(self) -> None:
        self.losses.reset()

    def on_validation_epoch_end(self) -> None:
        for split, (sums, counts) in self.losses.compute().items():
            self.scored[split] = sums.cpu().numpy(), counts.cpu().numpy()
            loss = sums.sum() / counts.sum()
            self.log_dict({f"{split}/loss": loss, f"{split}/perplexity": loss.exp()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if not name.startswith("losses.")
        }


class LossOfProteins(Metric):
    """Masked residues of each protein and their summed loss, for perplexity and its interval."""

    full_state_update = False
    records: list[Tensor]
    sums: list[Tensor]
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("records", "sums", "counts"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, losses: Tensor, batch: MaskedBatch) -> None:
        """Add one batch, given the loss (K,) of each of its masked residues."""
        starts = batch.masked.packed.starts
        protein = torch.searchsorted(starts[1:], batch.masked.positions.int(), right=True)
        counts = torch.bincount(protein, minlength=len(batch.records))
        sums = torch.zeros(len(batch.records), dtype=torch.float64, device=losses.device)
        self.records.append(batch.records)
        self.sums.append(sums.index_add_(0, protein, losses.double()))
        self.counts.append(counts)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Summed loss (N,) and masked residues (N,) of each protein, in order of record number."""
        records = dim_zero_cat(self.records)
        order = records.argsort()
        return dim_zero_cat(self.sums)[order], dim_zero_cat(self.counts)[order]
