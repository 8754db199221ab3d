"""Published encoders over packed proteins: ESM-1b, ESM-2, BERT and MegatronBert. Pure PyTorch.

They are ProteinLM's encoder with other parts around the same attention and feed-forward network. Each reads tokens of its
own and closes a protein with one of them, which no other module sees.

T tokens of packed proteins, B proteins, H hidden size.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from proteinlm import vocabulary
from proteinlm.config import PublishedConfig
from proteinlm.models import shape_buckets
from proteinlm.models.attention import Boundaries, boundaries, rotation
from proteinlm.models.backbone import Block, initialise
from proteinlm.models.packed import positions
from proteinlm.models.repeated_rows import Repeated

TRAINED_SHARE = 0.15 * 0.8
"""Masks among the tokens that ESM was trained on."""


@final
class PublishedBackbone(nn.Module):
    """Packed proteins in, one hidden state per token out, as `Backbone` does it."""

    tokens: Tensor

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        hidden, epsilon, before = config.hidden_size, config.layer_norm_epsilon, config.norm == "pre"
        self.config: PublishedConfig = config
        self.token_embedding: nn.Embedding = nn.Embedding(config.vocab_size, hidden)
        if config.positions == "learned":
            self.position_embedding: nn.Embedding = nn.Embedding(config.position_rows, hidden)
        self.scale: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            scale_by_masks if config.token_dropout else leave_unscaled
        )
        self.embedding_norm: nn.LayerNorm | nn.Identity = (
            nn.LayerNorm(hidden, eps=epsilon) if config.embedding_norm else nn.Identity()
        )
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)
        self.blocks: nn.ModuleList = nn.ModuleList(
            (Block if before else PostNormBlock)(config) for _ in range(config.num_layers)
        )
        self.norm: nn.LayerNorm | nn.Identity = nn.LayerNorm(hidden, eps=epsilon) if before else nn.Identity()
        # of the config, not of the weights: so it is there when parameters have no memory yet
        self.register_buffer("tokens", torch.tensor(config.tokens, device="cpu"), persistent=False)
        initialise(self, config)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int, wanted: Tensor | None = None) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS], or (K, H) of the `wanted` (K,) int64.

        `starts` (B + 1,) bounds the proteins.
        """
        x, where = self.embed(tokens, starts, longest)
        *early, last = self.blocks
        for block in early:
            x = block(x, where)
        kept = places_when_closed(starts, len(tokens), len(self.config.closing))  # (T,)
        if wanted is None:
            return self.norm(last(x, where).index_select(0, kept))
        return self.norm(last(x, where, shape_buckets.pad_rows_to_bucket(kept[wanted])))[: len(wanted)]

    def embed(self, tokens: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Boundaries]:
        """The input of the first block, with a row for what closes each protein, and the boundaries of the proteins."""
        longest += len(self.config.closing)
        closed = close(self.tokens[tokens], starts, self.config.closing)
        tokens, starts = shape_buckets.pad_batch_to_bucket(*closed, longest)
        position = positions(starts, len(tokens))
        masked = tokens == self.tokens[vocabulary.MASK]
        x = self.scale(self.token_embedding(tokens), masked, starts)  # (T + B, H)
        if self.config.positions == "learned":
            x = x + self.position_embedding(position)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        where = boundaries(starts, longest, dtype)
        if self.config.positions == "rotary":
            where = where._replace(rotation=rotation(position, self.config.head_dim))
        return self.dropout(self.embedding_norm(x)), where


@final
class PostNormBlock(Block):
    """BERT's block: ``norm(x + attention(x))``, then ``norm(x + feed_forward(x))``."""

    def forward(
        self, x: Tensor, where: Boundaries, wanted: Tensor | None = None, repeated: Repeated | None = None
    ) -> Tensor:
        assert repeated is None
        tokens = len(x)
        attended = self.drop(self.attention(x, where, wanted), tokens, wanted)
        x = self.attention_norm((x if wanted is None else x.index_select(0, wanted)) + attended)  # (T or K, H)
        return self.feed_forward_norm(x + self.drop(self.feed_forward(x), tokens, wanted))


def places_when_closed(starts: Tensor, tokens: int, closing: int) -> Tensor:
    """The index of each of `tokens` tokens once `closing` tokens follow each protein, (T,) int64."""
    token = torch.arange(tokens, device=starts.device)
    return token + closing * torch.searchsorted(starts[1:].long(), token, right=True)


def close(tokens: Tensor, starts: Tensor, closing: list[int]) -> tuple[Tensor, Tensor]:
    """`tokens` (T,) with `closing`, one token or none, after each protein, and the `starts` (B + 1,) of that."""
    proteins = len(starts) - 1
    stream = tokens.new_full((len(tokens) + len(closing) * proteins,), sum(closing))
    stream = stream.index_copy(0, places_when_closed(starts, len(tokens), len(closing)), tokens)
    more = torch.arange(proteins + 1, device=starts.device, dtype=starts.dtype)
    return stream, starts + len(closing) * more


def _norm(hidden: int, epsilon: float, there: bool) -> nn.LayerNorm | nn.Identity:
    return nn.LayerNorm(hidden, eps=epsilon) if there else nn.Identity()


def leave_unscaled(x: Tensor, masked: Tensor, starts: Tensor) -> Tensor:
    """The embeddings x as they are."""
    return x


def scale_by_masks(x: Tensor, masked: Tensor, starts: Tensor) -> Tensor:
    """Embeddings x (T, H) with those of `masked` (T,) bool set to zero, and each protein's scaled to make up for them.

    ESM does so (fair-esm ``esm/model/esm2.py``, ``token_dropout``): a protein with a share m of masks is scaled by
    0.88 / (1 - m), with the opening and the closing token in the count.
    """
    lengths = starts.diff()  # (B,)
    masks = torch.cat((masked.new_zeros(1, dtype=torch.long), masked.cumsum(0)))[starts.long()].diff()  # (B,)
    factor = (1 - TRAINED_SHARE) / (1 - masks / lengths.clamp(min=1))
    each = torch.repeat_interleave(factor, lengths.long(), output_size=len(x))  # (T,)
    return x.masked_fill(masked.unsqueeze(1), 0.0) * each.unsqueeze(1)
