"""Heads that predict residues, for pretraining and likelihoods. Pure PyTorch.

K tokens, H hidden size, V vocabulary.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import ModelConfig
from proteinlm.models import mup, shape_buckets
from proteinlm.models.backbone import initialise


class LanguageModelHead(nn.Module):
    """Scores of the vocabulary at some tokens: dense, GELU, LayerNorm, tied decoder, bias (Megatron's ``BertLMHead``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense: nn.Linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(config.vocab_size))
        self.approximate: str = "tanh" if config.head_activation == "gelu_tanh" else "none"
        initialise(self, config)
        nn.init.constant_(self.norm.weight, mup.initial_gain(config))

    def forward(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        """Logits (K, V) of the hidden states (K, H) of K tokens; `embedding` (V, H) is the backbone's token table."""
        assert embedding is not None
        x = shape_buckets.pad_to_bucket(hidden)  # (K or a few more, H)
        x = self.norm(F.gelu(self.dense(x), approximate=self.approximate))
        return F.linear(x, embedding, self.bias)[: len(hidden)]  # (K, V)


@final
class UntiedLanguageModelHead(LanguageModelHead):
    """The same with a decoder of its own, for backbones whose token table is not as wide as their states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder: nn.Parameter = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        nn.init.normal_(self.decoder, std=0.02)

    def forward(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        return super().forward(hidden, self.decoder)


@final
class NextResidueHead(nn.Module):
    """Scores of the vocabulary from the states of one direction: one linear layer, shared by both directions."""

    def __init__(self, direction_size: int, vocab_size: int) -> None:
        super().__init__()
        self.output: nn.Linear = nn.Linear(direction_size, vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """Logits (K, V) of states (K, H / 2)."""
        return self.output(states)
