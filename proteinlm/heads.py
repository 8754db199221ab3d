"""What is read off the backbone's hidden states.

T tokens, H hidden size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.backbone import LAYER_NORM_EPSILON, initialise
from proteinlm.config import ModelConfig


class LanguageModelHead(nn.Module):
    """Scores of the vocabulary at some tokens: dense, GELU, LayerNorm, tied decoder, bias (Megatron's ``BertLMHead``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.approximate = "tanh" if config.head_activation == "gelu_tanh" else "none"
        self.apply(initialise)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Logits (K, V) of the hidden states (K, H) of K tokens; `embedding` (V, H) is the backbone's token table."""
        x = self.norm(F.gelu(self.dense(hidden), approximate=self.approximate))  # (K, H)
        return F.linear(x, embedding, self.bias)
