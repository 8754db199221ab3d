"""TAPE's residual network along packed proteins.

T tokens of packed proteins, B proteins, H hidden size, N rows: the tokens, and gaps between the proteins.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config.baselines import ResNetConfig
from proteinlm.models.packed import positions, with_gaps, with_means_at_cls

INITIAL_STD = 0.02  # of the embedding, as in TAPE


@final
class ResNet(nn.Module):
    """Blocks of two convolutions on token embeddings with sinusoidal positions (TAPE ``modeling_resnet.py``).

    - [CLS] has the mean over the residues. TAPE's pooler meant to weigh them, but its softmax ran over an axis of length
      one: it summed all states, those of padding too.
    - Positions count from a protein's beginning; TAPE's from the end of the padded batch, which others decide.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.reach = config.dilation * (config.kernel_size // 2)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(ResNetBlock(config) for _ in range(config.num_layers))
        nn.init.normal_(self.token_embedding.weight, std=INITIAL_STD)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        x = self.token_embedding(tokens)  # (T, H)
        x = self.dropout(self.norm(x + sinusoids(positions(starts, len(tokens)), x.shape[-1])))
        x, index = with_gaps(x, starts, self.reach)  # (N, H), (T,)
        is_token = x.new_zeros(len(x), 1).index_fill(0, index, 1.0)  # (N, 1)
        for block in self.blocks:
            x = block(x, is_token)
        return with_means_at_cls(x.index_select(0, index), starts)  # (T, H)


class ResNetBlock(nn.Module):
    """Convolution, LayerNorm, GELU, convolution, LayerNorm; added to the input, and GELU again."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        hidden, size, dilation = config.hidden_size, config.kernel_size, config.dilation
        padding = dilation * (size // 2)
        self.first = nn.Conv1d(hidden, hidden, size, padding=padding, dilation=dilation, bias=False)
        self.first_norm = nn.LayerNorm(hidden, eps=config.layer_norm_epsilon)
        self.second = nn.Conv1d(hidden, hidden, size, padding=padding, dilation=dilation, bias=False)
        self.second_norm = nn.LayerNorm(hidden, eps=config.layer_norm_epsilon)
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as in TAPE

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        """The rows (N, H) after the block; `is_token` (N, 1) is 0 for the gaps, which tokens must see as zeros."""
        y = F.gelu(self.first_norm(along(self.first, x * is_token)))  # (N, H)
        return F.gelu(x + self.second_norm(along(self.second, y * is_token)))


def along(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution along the rows of (N, H)."""
    return convolution(x.T.unsqueeze(0)).squeeze(0).T


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of positions (T,) at `width` / 2 frequencies from 1 down to 1/10000, (T, `width`) float32."""
    exponents = torch.arange(0, width, 2, device=position.device, dtype=torch.float32) / width
    angles = position.unsqueeze(1) / 10000**exponents
    return torch.cat((angles.sin(), angles.cos()), dim=1)
