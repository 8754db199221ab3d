"""BERT's encoder over packed proteins, as TAPE's Transformer had it.

T tokens of packed proteins, B proteins, H hidden size, N heads, D head dimension.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config.baselines import PostNormConfig
from proteinlm.models import shape_buckets
from proteinlm.models.attention import Boundaries, attend, boundaries
from proteinlm.models.packed import positions

INITIAL_STD = 0.02  # ``initializer_range``


@final
class PostNorm(nn.Module):
    """Token and position embeddings, LayerNorm, blocks (Devlin et al. 2019; TAPE ``modeling_bert.py``).

    - No table of token types: there was one type, so its row is part of every position's.
    - No pooler: it got no gradient in pretraining, and our heads for [CLS] have its dense layer.
    - Attention weights are not dropped, the embedding and the residual branches are, as in ProteinLM's encoder here.
    - Special tokens are never masked; in TAPE they were, by a slip.
    """

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(PostNormBlock(config) for _ in range(config.num_layers))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS].

        `starts` (B + 1,) int32 bounds the proteins; `longest` is the length in tokens of the longest, or more.
        """
        real = len(tokens)
        tokens, starts = shape_buckets.pad_batch_to_bucket(tokens, starts, longest)
        x = self.token_embedding(tokens) + self.position_embedding(positions(starts, len(tokens)))
        x = self.dropout(self.norm(x))  # (T, H)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        where = boundaries(starts, longest, dtype)
        for block in self.blocks:
            x = block(x, where)
        return x[:real]


class PostNormBlock(nn.Module):
    """``x = norm(x + attention(x))``, then ``x = norm(x + feed_forward(x))``; GELU in its exact form."""

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.head_dim = config.head_dim
        self.query_key_value = nn.Linear(hidden, 3 * hidden)  # rows by (head, 3, head dimension)
        self.output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_epsilon)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.feed_forward_norm = nn.LayerNorm(hidden, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, where: Boundaries) -> Tensor:
        joint = self.query_key_value(x).unflatten(-1, (-1, 3, self.head_dim))  # (T, N, 3, D)
        attended = attend(joint, where).flatten(-2)  # (T, H)
        x = self.attention_norm(x + self.dropout(self.output(attended)))  # (T, H)
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))  # (T, H)
