"""The residues themselves, one-hot: what heads reach without a model."""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config.baselines import OneHotConfig
from proteinlm.models.packed import with_means_at_cls


@final
class OneHot(nn.Module):
    """TAPE's one-hot baseline: nothing to learn.

    - [CLS] has the composition of the protein's residues; TAPE's counted [CLS], [SEP] and padding in.
    - TAPE's contact prediction with it crashed on an undefined hidden size; here all heads run.
    """

    def __init__(self, config: OneHotConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, V) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        return with_means_at_cls(F.one_hot(tokens, self.hidden_size).float(), starts)
