"""Pretraining of the LSTM as TAPE's was: each residue from those before it, and from those after it."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.baselines.lstm import LSTM
from proteinlm.config import LSTMConfig, RunConfig
from proteinlm.data.loader import MaskedBatch
from proteinlm.heads import NextResidueHead
from proteinlm.tasks.language_model import LanguageModel


@final
class NextResidue(LanguageModel):
    """The mean of both directions' cross-entropies; the last residue, which nothing follows, has one.

    Its perplexity is not that of masked residues: neither direction sees both sides.
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
        from_left = self._losses(ahead.index_select(0, places - 1), targets)
        from_right = self._losses(back.index_select(0, (places + 1).clamp(max=len(tokens) - 1)), targets)
        return torch.where(followed, (from_left + from_right) / 2, from_left)

    def _losses(self, states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(states).float(), targets, reduction="none")
