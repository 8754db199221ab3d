"""Heads with one answer per residue. Pure PyTorch.

T tokens, B proteins, H hidden size, W width of a layer, C classes. [CLS] has a row of logits too, which tasks ignore.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from proteinlm.models.heads.base import Head, TanhMLP, WeightNorm
from proteinlm.models.packed import with_gaps


class ResidueMLP(TanhMLP):
    """Linear, tanh, dropout, linear on every token (paper section 3.2.1): logits (T, C)."""

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.mlp(hidden)  # (T, C)


class ResidueLinear(Head):
    """One linear layer on every token: logits (T, C)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.output(self.dropout(hidden))  # (T, C)


class ResidueConvolution(Head):
    """TAPE's ``SimpleConv``: logits (T, C) from the seven tokens around each, with zeros beyond the protein's ends.

    [CLS] is a token like the others. Batch statistics are over the tokens of all proteins; TAPE's included its padding.
    """

    def __init__(self, hidden_size: int, classes: int, dropout: float = 0.0, width: int = 512) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(hidden_size)
        self.dense = nn.Conv1d(hidden_size, width, kernel_size=5, padding=2)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Conv1d(width, classes, kernel_size=3, padding=1)
        for layer in (self.dense, self.output):
            register_parametrization(layer, "weight", WeightNorm())

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        x = convolve(self.dense, self.batch_norm(hidden), starts)  # (T, W)
        return convolve(self.output, self.dropout(x.relu()), starts)  # (T, C)


def convolve(convolution: nn.Conv1d, x: Tensor, starts: Tensor) -> Tensor:
    """Apply a convolution to x (T, H) as if to each protein alone, with zeros beyond its ends: (T, W)."""
    rows, index = with_gaps(x, starts, convolution.kernel_size[0] // 2)
    return convolution(rows.T.unsqueeze(0)).squeeze(0).T[index]  # (1, H, rows) to (1, W, rows) to (T, W)
