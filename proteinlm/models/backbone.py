"""The Transformer encoder of ProteinLM over packed proteins. Pure PyTorch.

T tokens of all proteins laid end to end, B proteins, H hidden size, I intermediate size, N heads, D head dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import ModelConfig
from proteinlm.models import fused_layers, mup, narrow_layers, repeated_rows, shape_buckets
from proteinlm.models.attention import Boundaries, attend, attend_few, boundaries, rotation, takes_few
from proteinlm.models.gelu import gelu
from proteinlm.models.kernels.layers import has_kernels, is_plain
from proteinlm.models.packed import positions
from proteinlm.models.repeated_rows import Repeated, spread


class Attention(nn.Module):
    """Bidirectional self-attention (paper section 3.2; Megatron's ``ParallelAttention``).

    Query, key and value are one projection whose rows are ordered (head, 3, head dimension), as in Megatron's
    checkpoints. The number of heads is read off its output, never stored: a tensor-parallel shard, whose projection
    has fewer rows, runs this same code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim: int = config.head_dim
        self.query_key_value: nn.Linear = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output: nn.Linear = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: Tensor,
        where: Boundaries,
        wanted: Tensor | None = None,
        norm: nn.LayerNorm | None = None,
        *,
        adds: bool = False,
        repeated: Repeated | None = None,
    ) -> Tensor:
        """Attention of x (T, H), or of its `norm`: (T or K, H). x itself is added if it `adds`.

        If rows are `repeated`, x (U, H) is those that are different, and all are wanted.
        """
        if repeated is not None:
            different, x = self._project(x, norm)
            joint = spread(different.flatten(1), repeated).view(-1, *different.shape[1:])
            mixed, residual = attend(joint, where).flatten(-2), spread(x, repeated)  # (T, H)
        elif wanted is None or not self._can_split(x, where, wanted):
            joint, x = self._project(x, norm)
            mixed = attend(joint, where, wanted).flatten(-2)  # (T or K, H)
            residual = x if wanted is None or not adds else x.index_select(0, wanted)
        else:  # other tokens need no queries
            of_query, of_others = self._query_and_others()
            others, x = self._project(x, norm, of_others)
            query, residual = self._project(x.index_select(0, wanted), norm, of_query)
            mixed = attend_few(query.squeeze(2), others, where, wanted).flatten(-2)  # (K, H)
        if fused_layers.suits(mixed, self.output):
            return fused_layers.add_linear(mixed, self.output, residual if adds else None)
        return residual + self.output(mixed) if adds else self.output(mixed)

    def project(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """Queries, keys and values of each head, (T, N, 3, D), of x (T, H), or of its `norm`."""
        return self._project(x, norm)[0]

    def _project(
        self, x: Tensor, norm: nn.LayerNorm | None, part: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `project` gives, or of it what the weight and bias of a `part` of the layer give, and x, for all that else is
        computed of it.
        """
        layer = self.query_key_value
        weight, bias = part or (layer.weight, layer.bias)
        if norm is not None and narrow_layers.suits(x, norm, layer):
            joint = narrow_layers.project(x, norm, weight, bias)
        elif norm is not None and fused_layers.suits(x, norm, layer):
            joint, x = fused_layers.project(x, norm, weight, bias)
        else:
            given = x if norm is None else norm(x)
            joint = layer(given) if part is None else F.linear(given, weight, bias)
        parts = 3 if part is None else 3 * len(weight) // len(layer.weight)
        return joint.unflatten(-1, (-1, parts, self.head_dim)), x

    def _can_split(self, x: Tensor, where: Boundaries, wanted: Tensor) -> bool:
        """Whether the layer is only its weights, and functions in C take queries of the tokens `wanted` (K,) alone."""
        if not has_kernels(x) or not is_plain(self.query_key_value, nn.Linear):
            return False
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return takes_few(x.new_empty(0, self.head_dim, dtype=dtype), where, wanted)

    def _query_and_others(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of the queries, and those of keys and values."""
        layer = self.query_key_value
        weights, biases = (
            [part.flatten(0, 2) for part in each.unflatten(0, (-1, 3, self.head_dim)).split((1, 2), dim=1)]
            for each in (layer.weight, layer.bias)
        )
        return list(zip(weights, biases, strict=True))


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up: nn.Linear = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down: nn.Linear = nn.Linear(config.intermediate_size, config.hidden_size)
        self.approximate: str = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.up(x), self.approximate)  # (T, I)
        return self.down(x)  # (T, H)

    @property
    def is_usual(self) -> bool:
        """Whether it is of the form that the functions in C compute."""
        return is_plain(self, FeedForward)


class GatedFeedForward(FeedForward):
    """GELU of one projection gates another (GeGLU, arXiv 2002.05202). Two matrices, so that each can be cut alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate: nn.Linear = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.gate(x), self.approximate) * self.up(x)  # (T, I)
        return self.down(x)  # (T, H)


class Block(nn.Module):
    """Pre-LayerNorm block: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``.

    If rows K of its output are `wanted`, (K,) int64, it computes no others. They are the same rows, dropout included. If
    rows of its input are `repeated`, that is the different ones, (U, H). Then nothing is dropped, and all are wanted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attention: Attention = Attention(config)
        self.feed_forward_norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.feed_forward: FeedForward = (GatedFeedForward if config.feed_forward == "gated" else FeedForward)(config)
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, where: Boundaries, wanted: Tensor | None = None, repeated: Repeated | None = None
    ) -> Tensor:
        tokens = len(x)
        if self.drops:
            attended = self.drop(self.attention(x, where, wanted, self.attention_norm), tokens, wanted)
            x = (x if wanted is None else x.index_select(0, wanted)) + attended  # (T or K, H)
        else:
            x = self.attention(x, where, wanted, self.attention_norm, adds=True, repeated=repeated)
        layers = self.feed_forward_norm, self.feed_forward.up, self.feed_forward.down
        if self.feed_forward.is_usual:
            approximate = self.feed_forward.approximate
            if approximate == "tanh" and not self.drops and narrow_layers.suits(x, *layers):
                return narrow_layers.add_feed_forward(x, *layers)
            if fused_layers.suits(x, *layers):
                changed = fused_layers.feed_forward(x, *layers, adds=not self.drops, approximate=approximate)
                return x + self.drop(changed, tokens, wanted) if self.drops else changed
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)), tokens, wanted)

    def is_fused(self, rows: int) -> bool:
        """Whether functions in C, to which any shape is as good as another, compute all products of so many `rows`."""
        if self._compiled_call_impl is not None or not self.feed_forward.is_usual:
            return False
        x = self.attention_norm.weight.new_empty(rows, len(self.attention_norm.weight))
        half = self.feed_forward_norm, self.feed_forward.up, self.feed_forward.down
        parts = (self.attention_norm, self.attention.query_key_value), half
        return all(fused_layers.suits(x, *layers) for layers in parts)

    @property
    def drops(self) -> bool:
        """Whether dropout changes anything."""
        return self.training and self.dropout.p > 0

    def drop(self, x: Tensor, tokens: int, wanted: Tensor | None) -> Tensor:
        """Dropout of x, which if rows are `wanted` are those of `tokens` rows: the random numbers of all are drawn."""
        if wanted is None or not self.drops:
            return self.dropout(x)
        return x * self.dropout(x.new_ones(tokens, x.shape[-1])).index_select(0, wanted)


class Backbone(nn.Module):
    """Packed proteins in, one hidden state per token out.

    A protein's hidden states depend on its own tokens alone, whatever it is packed with.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config: ModelConfig = config
        self.token_embedding: nn.Embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.position_embedding: nn.Embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)
        self.blocks: nn.ModuleList = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02), with 0.02 / sqrt(2 layers) on the projections into the residual stream; biases 0."""
        initialise(self, self.config)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int, wanted: Tensor | None = None) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS], or (K, H) of the `wanted` (K,) int64.

        `starts` (B + 1,) int32 bounds the proteins; `longest` is the length in tokens of the longest, or more.
        """
        batch = tokens, starts
        if not all(isinstance(block, Block) and block.is_fused(len(tokens)) for block in self.blocks):
            batch = shape_buckets.pad_batch_to_bucket(tokens, starts, longest)
        *early, last = self.blocks
        repeated = self._repeated(*batch) if early else None
        x, where = self.embed(*batch, longest, repeated)
        for block in early:
            x, repeated = block(x, where, None, repeated), None  # (T, H)
        if wanted is None:
            return self.norm(last(x, where))[: len(tokens)]
        return self.norm(last(x, where, shape_buckets.pad_rows_to_bucket(wanted)))[: len(wanted)]

    def embed(
        self, tokens: Tensor, starts: Tensor, longest: int, repeated: Repeated | None = None
    ) -> tuple[Tensor, Boundaries]:
        """The input of the first block: hidden states (T, H), or the different ones (U, H) of those that are `repeated`, and
        the boundaries of the proteins.
        """
        position = positions(starts, len(tokens))  # (T,)
        chosen = slice(None) if repeated is None else repeated.first
        x = self.token_embedding(tokens[chosen])  # (T or U, H)
        if self.config.positions == "learned":
            x = x + self.position_embedding(position[chosen])
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        where = boundaries(starts, longest, dtype)
        if self.config.positions == "rotary":
            where = where._replace(rotation=rotation(position, self.config.head_dim))
        return self.dropout(x), where

    def _repeated(self, tokens: Tensor, starts: Tensor) -> Repeated | None:
        """Which tokens have the same input of the first block, if functions in C are there, and it is worth it."""
        compiled = self.blocks[0]._compiled_call_impl is not None
        if compiled or (self.training and self.dropout.p > 0) or not has_kernels(tokens):
            return None
        kinds = tokens
        if self.config.positions == "learned":
            kinds = tokens + self.config.vocab_size * positions(starts, len(tokens))
        return repeated_rows.find(kinds, self.config.hidden_size)


def initialise(module: nn.Module, config: ModelConfig) -> None:
    """Draw the weights of the Linear and Embedding layers in `module` with the deviations of `mup`; biases 0."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=mup.initial_std(f"{name}.weight", config))
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
