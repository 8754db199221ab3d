"""The MSA Transformer (Rao et al. 2021): a language model that reads a whole alignment at once.

Each block has attention along the rows, whose weights all rows share (*tied*), attention along the columns, and a
feed-forward network; each is added to what came in, after a LayerNorm. Residues that are in contact attend to each other
along the rows, and a logistic regression on all those maps reads contacts off them. The arithmetic is that of fair-esm,
so that its weights can be used. Only inference is here: there is no dropout.

R rows, C columns, one more than residues because [CLS] opens each row; D hidden size, H heads, V vocabulary, L residues.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.errors import InputError

TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
CLS, PAD, UNKNOWN, MASK = (TOKENS.index(name) for name in ("<cls>", "<pad>", "<unk>", "<mask>"))
AT_ONCE = 2**14
"""Tokens whose queries, keys and wide feed-forward states are held at once."""

_ID_OF_BYTE = np.full(256, UNKNOWN, np.int64)
for _index, _token in enumerate(TOKENS):
    if len(_token) == 1:
        _ID_OF_BYTE[ord(_token)] = _index


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; those of esm_msa1b by default."""

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward: int = 3072
    max_positions: int = 1024
    """Columns at most, [CLS] among them."""
    max_rows: int = 1024

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1 or self.hidden_size % self.num_heads:
            raise InputError(f"{self}: sizes below one, or a hidden size that its heads do not divide")

    def bytes_needed(self, rows: int, residues: int) -> int:
        """Bytes that `MSATransformer.forward` holds at most besides the weights, for an alignment in float32."""
        columns = residues + 1
        tokens, at_once = rows * columns, min(AT_ONCE, rows * columns)
        states = 4 * tokens * self.hidden_size  # the residual stream, and what a block adds to it
        wide = at_once * (self.feed_forward * 2 + self.hidden_size * 6)
        column_maps = self.num_heads * rows * rows * max(1, AT_ONCE // rows)
        row_maps = (self.num_layers + 3) * self.num_heads * columns * columns
        return 4 * (states + wide + column_maps + row_maps)


def encode(letters: np.ndarray) -> np.ndarray:
    """Token ids (R, L + 1) int64 of the letters (R, L) uint8 of an alignment, [CLS] first in each row."""
    return np.concatenate([np.full((len(letters), 1), CLS), _ID_OF_BYTE[letters]], axis=1)


class Attention(nn.Module):
    """Projections that attention along the rows and along the columns have in common."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size = shape.hidden_size
        self.heads, self.head_size = shape.num_heads, size // shape.num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def split(self, projection: nn.Linear, x: Tensor) -> Tensor:
        """A projection of states (r, c, D), by heads: (r, c, H, D / H)."""
        return projection(x).unflatten(-1, (self.heads, self.head_size))


class RowAttention(Attention):
    """Attention along the rows, by weights that are summed over all rows before the softmax."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States (R, C, D) to what they add (R, C, D), and the weights (H, C, C)."""
        rows, columns, _ = x.shape
        parts = x.split(max(1, AT_ONCE // columns))
        scale = 1 / sqrt(self.head_size) / sqrt(rows)
        logits = x.new_zeros(self.heads, columns, columns)
        for part in parts:
            logits += torch.einsum("rihd,rjhd->hij", self.split(self.query, part) * scale, self.split(self.key, part))
        weights = logits.softmax(dim=-1)
        mixed = (torch.einsum("hij,rjhd->rihd", weights, self.split(self.value, part)) for part in parts)
        return torch.cat([self.output(part.flatten(-2)) for part in mixed]), weights


class ColumnAttention(Attention):
    """Attention along the columns: each residue looks at those of the other rows in its place."""

    def forward(self, x: Tensor) -> Tensor:
        """States (R, C, D) to what they add (R, C, D)."""
        done = []
        for part in x.split(max(1, AT_ONCE // len(x)), dim=1):
            query, key, value = (
                self.split(each, part).permute(1, 2, 0, 3) for each in (self.query, self.key, self.value)
            )
            mixed = F.scaled_dot_product_attention(query, key, value)  # (c, H, R, D / H)
            done.append(self.output(mixed.permute(2, 0, 1, 3).flatten(-2)))
        return torch.cat(done, dim=1)


class Block(nn.Module):
    """One of the model's blocks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.row_norm, self.column_norm, self.feed_forward_norm = (nn.LayerNorm(shape.hidden_size) for _ in range(3))
        self.row, self.column = RowAttention(shape), ColumnAttention(shape)
        self.up = nn.Linear(shape.hidden_size, shape.feed_forward)
        self.down = nn.Linear(shape.feed_forward, shape.hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States (R, C, D), and the weights of attention along the rows (H, C, C)."""
        added, weights = self.row(self.row_norm(x))
        x = x + added
        x = x + self.column(self.column_norm(x))
        parts = x.split(max(1, AT_ONCE // x.shape[1]))
        return torch.cat([part + self.down(F.gelu(self.up(self.feed_forward_norm(part)))) for part in parts]), weights


class MSATransformer(nn.Module):
    """The whole model, with its language-model head and its regression of contacts."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.tokens = nn.Embedding(len(TOKENS), size, padding_idx=PAD)
        self.positions = nn.Embedding(shape.max_positions + PAD + 1, size)
        self.rows = nn.Parameter(0.01 * torch.randn(shape.max_rows, size))
        self.norm_before, self.norm_after = nn.LayerNorm(size), nn.LayerNorm(size)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.num_layers)])
        self.head_dense, self.head_norm = nn.Linear(size, size), nn.LayerNorm(size)
        self.head_bias = nn.Parameter(torch.zeros(len(TOKENS)))
        self.contacts = nn.Linear(shape.num_layers * shape.num_heads, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (R, C, D) of an alignment's tokens (R, C) int64, and attention along its rows (N H, C, C).

        Raises `InputError` for more rows or columns than the model has embeddings of.
        """
        rows, columns = tokens.shape
        if columns > self.shape.max_positions:
            raise InputError(f"{columns - 1} residues, more than the {self.shape.max_positions - 1} of the model")
        if rows > self.shape.max_rows:
            raise InputError(f"{rows} rows, more than the {self.shape.max_rows} of the model: choose some by --depth")
        place = torch.arange(columns, device=tokens.device) + PAD + 1  # where fair-esm begins to count
        x = self.norm_before(self.tokens(tokens) + self.positions(place) + self.rows[:rows, None])
        maps = []
        for block in self.blocks:
            x, weights = block(x)
            maps.append(weights)
        return self.norm_after(x), torch.cat(maps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of the tokens at hidden states (..., D)."""
        hidden = self.head_norm(F.gelu(self.head_dense(hidden)))
        return F.linear(hidden, self.tokens.weight, self.head_bias)

    def contact_probabilities(self, maps: Tensor) -> Tensor:
        """Probabilities (L, L) of contacts, from the attention along the rows (N H, C, C)."""
        maps = maps[:, 1:, 1:]
        maps = maps + maps.transpose(1, 2)
        by_row = maps.sum(dim=2, keepdim=True)
        maps = maps - by_row * by_row.transpose(1, 2) / by_row.sum(dim=1, keepdim=True)
        return self.contacts(maps.permute(1, 2, 0)).squeeze(-1).sigmoid()
