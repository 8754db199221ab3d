"""Pretraining: recover the residues hidden from the input (paper section 3.1)."""

from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from proteinlm.config import RunConfig
from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.data.batches.masking import Masked
from proteinlm.models import registry
from proteinlm.models.seeding import reseed
from proteinlm.parallel.cuda_graphs import StepGraphs
from proteinlm.tasks.language_model import LanguageModel


@final
class MaskedLanguageModel(LanguageModel):
    """Cross-entropy on the masked residues.

    With `train.cuda_graphs` the passes of training are replayed. The batches are then filled up to few shapes, and the
    gradient is computed by `StepGraphs`, not by autograd.
    """

    def __init__(self, config: RunConfig, evaluations: tuple[str, ...]) -> None:
        super().__init__(config, evaluations)
        self.replays = config.train.cuda_graphs
        self.graphs: StepGraphs | None = None

    def make_head(self, config: RunConfig) -> nn.Module:
        return registry.language_model_head(config.backbone)

    def forward(self, batch: MaskedBatch) -> Tensor:
        return self.losses_of(batch.masked)

    def losses_of(self, masked: Masked) -> Tensor:
        """The loss of each masked residue, (K,); 0 without a target."""
        tokens, starts, longest, _ = masked.packed
        states = registry.states_at(self.backbone, tokens, starts, longest, masked.positions)  # (K, H)
        logits = self.head(states, registry.token_table(self.backbone))  # (K, V)
        return F.cross_entropy(logits.float(), masked.targets, reduction="none")

    def share_of_loss(self, batch: MaskedBatch) -> Tensor:
        if not self.replays:
            return super().share_of_loss(batch)
        packed, positions, targets = batch.masked

        def loss(tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
            return self.losses_of(Masked(packed._replace(tokens=tokens, starts=starts), positions, targets)).sum()

        self.graphs = self.graphs or StepGraphs(loss, self.parameters())
        self.graphs.load(packed.tokens, packed.starts, positions, targets)
        reseed(batch.seed, self.device)
        return self.graphs.forward(batch.step_targets)

    def backward(self, loss: Tensor, *given: Any, **options: Any) -> None:
        if self.graphs:
            self.graphs.backward()
        else:
            super().backward(loss, *given, **options)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if self.graphs:
            self.graphs.clear_gradients()
        else:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)
