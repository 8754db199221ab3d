"""Pretraining: recover the residues hidden from the input (paper section 3.1)."""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import RunConfig
from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.models import registry
from proteinlm.tasks.language_model import LanguageModel


@final
class MaskedLanguageModel(LanguageModel):
    """Cross-entropy on the masked residues."""

    def make_head(self, config: RunConfig) -> nn.Module:
        return registry.language_model_head(config.backbone)

    def forward(self, batch: MaskedBatch) -> Tensor:
        tokens, starts, longest, _ = batch.masked.packed
        masked = registry.states_at(self.backbone, tokens, starts, longest, batch.masked.positions)  # (K, H)
        logits = self.head(masked, registry.token_table(self.backbone))  # (K, V)
        return F.cross_entropy(logits.float(), batch.masked.targets, reduction="none")
