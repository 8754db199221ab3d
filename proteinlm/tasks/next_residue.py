"""Pretraining of the LSTM as TAPE's was: each residue from those before it, and from those after it."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import LSTMConfig, RunConfig
from proteinlm.data.batches.language_model import MaskedBatch
from proteinlm.models.baselines.lstm import LSTM
from proteinlm.models.heads import NextResidueHead
from proteinlm.tasks.language_model import LanguageModel


@final
class NextResidue(LanguageModel):
    """Cross-entropy of the sum of both directions' scores, as in TAPE; nothing follows the last residue.

    Its perplexity is not that of masked residues: all are predicted, and neighbours are never hidden.
    """

    def make_head(self, config: RunConfig) -> nn.Module:
        assert isinstance(config.backbone, LSTMConfig)
        return NextResidueHead(config.backbone.direction_size, config.backbone.vocab_size)

    def forward(self, batch: MaskedBatch) -> Tensor:
        tokens, starts, _, _ = batch.masked.packed
        assert isinstance(self.backbone, LSTM)
        ahead, back = self.backbone.directions(tokens, starts)  # (T, H / 2)
        places, targets = batch.masked.positions, batch.masked.targets
        followed = ~torch.isin(places + 1, starts.long())  # (K,)
        before = ahead.index_select(0, places - 1)
        after = back.index_select(0, (places + 1).clamp(max=len(tokens) - 1)) * followed.unsqueeze(1)
        logits = self.head(before) + self.head(after)  # (K, V)
        return F.cross_entropy(logits.float(), targets, reduction="none")
