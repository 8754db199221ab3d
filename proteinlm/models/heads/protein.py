"""Heads with one answer per protein. Pure PyTorch.

T tokens, B proteins, H hidden size, C classes or numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from proteinlm.models.heads.base import Head, TanhMLP, WeightNorm
from proteinlm.models.heads.residue import convolve
from proteinlm.models.packed import cls_states, mean_over_residues, per_protein, positions, sum_over_proteins


class ProteinMLP(TanhMLP):
    """Linear (ProteinLM's pooler), tanh, dropout, linear on [CLS] (paper sections 3.2.2, 3.3): logits (B, C)."""

    reads_cls_alone = True

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.mlp(cls_states(hidden, starts))  # (B, C)


class ProteinMean(TanhMLP):
    """The layers of `ProteinMLP` on every residue, with the mean taken after the tanh: logits (B, C). Of neither seed.

    Each residue, whose state knows its surroundings by then, adds its own part to the answer, as mutations do; [CLS] would
    first have to learn to look for them.
    """

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        residues = self.dense(hidden).tanh()  # (T, H)
        x = mean_over_residues(residues, starts)  # (B, H)
        return self.output(self.dropout(x))  # (B, C)


class ProteinLightAttention(Head):
    """Light attention (Stärk et al. 2021, doi 10.1093/bioadv/vbab035): logits (B, C) from weighted means and maxima.

    One convolution gives the values of each residue, another how much each channel attends to it: a softmax over the
    residues of the protein. [CLS] is seen by the convolutions as a token like the others, and is not attended to. The
    authors' batch normalisation is left out, so that a protein's output does not depend on its neighbours. Where they
    have ReLU, a hundredth of what is below zero is passed on: variants of one protein are so alike that one large step
    puts a unit of ReLU out for all of them, and no gradient brings it back.
    """

    def __init__(self, hidden_size: int, classes: int, dropout: float, kernel_size: int = 9, width: int = 32) -> None:
        super().__init__()
        self.value = nn.Conv1d(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)
        self.attention = nn.Conv1d(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(2 * hidden_size, width)
        self.output = nn.Linear(width, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        values = per_protein(self.dropout(convolve(self.value, hidden, starts)), starts)  # B of (L + 1, H)
        scores = per_protein(convolve(self.attention, hidden, starts), starts)
        pairs = [(value, score) for value, score in zip(values, scores, strict=True) if len(value)]
        x = torch.stack([_attended(*(part[min(1, len(part) - 1) :] for part in pair)) for pair in pairs])  # (B, 2H)
        return self.output(F.leaky_relu(self.dropout(self.dense(x))))  # (B, C)


def _attended(value: Tensor, score: Tensor) -> Tensor:
    """The mean of `value` (L, H) weighted by the softmax of `score` (L, H) over residues, and its maximum: (2H,)."""
    return torch.cat([(score.softmax(dim=0) * value).sum(dim=0), value.amax(dim=0)])


class ProteinPositions(Head):
    """Weights for each position, on what differs there from the mean over proteins: logits (B, C). Of neither seed.

    For variants of one protein: what a mutation does depends on where it is, and the other heads must learn that from what
    surrounds it. On states that say which residue they are of, this head is a linear model of the mutations (of their
    one-hot encoding). Positions that training has not seen add nothing.
    """

    mean: Tensor
    """Running mean of the states at each position, (positions, H)."""
    seen: Tensor
    """1 for the positions that a training batch had, otherwise 0: (positions,)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float, positions: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(positions, classes * hidden_size))
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(positions, hidden_size))
        self.register_buffer("seen", torch.zeros(positions))

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        position = positions(starts, len(hidden))  # (T,)
        if self.training:
            self.update_means(hidden.detach(), position)
        x = self.dropout((hidden - self.mean[position]) * self.seen[position].unsqueeze(-1))  # (T, H)
        x = x * x.shape[-1] ** -0.5  # a step of the optimiser moves all H weights of a mutated position at once
        weight = F.embedding(position, self.weight).unflatten(-1, (-1, x.shape[-1]))  # (T, C, H)
        return sum_over_proteins(torch.einsum("th,tch->tc", x, weight), starts) + self.bias  # (B, C)

    def update_means(self, hidden: Tensor, position: Tensor) -> None:
        """Move the means of a batch's positions a tenth of the way to the batch's; the first time, all of it."""
        count = torch.zeros_like(self.seen).index_add(0, position, torch.ones_like(hidden[:, 0]))  # (positions,)
        batch = torch.zeros_like(self.mean).index_add(0, position, hidden) / count.clamp(min=1).unsqueeze(-1)
        share = torch.where(self.seen > 0, 0.1, 1.0) * (count > 0)  # (positions,)
        self.mean.lerp_(batch, share.unsqueeze(-1))
        self.seen.copy_(torch.maximum(self.seen, count.clamp(max=1)))


class ProteinLinear(Head):
    """One linear layer on [CLS]: logits (B, C)."""

    reads_cls_alone = True

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.output(self.dropout(cls_states(hidden, starts)))  # (B, C)


class ProteinWeightNorm(Head):
    """TAPE's ``SimpleMLP`` on its pooler: linear and tanh on [CLS], then two weight-normalised layers: logits (B, C).

    In the authors' fork `width` is 1024 and there is no `pooler`; the fork's [CLS] also lacked the final LayerNorm.
    """

    reads_cls_alone = True

    def __init__(
        self, hidden_size: int, classes: int, dropout: float = 0.0, width: int = 512, pooler: bool = True
    ) -> None:
        super().__init__()
        self.pooler = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh()) if pooler else nn.Identity()
        self.dense = nn.Linear(hidden_size, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, classes)
        for layer in (self.dense, self.output):
            register_parametrization(layer, "weight", WeightNorm())

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        x = self.pooler(cls_states(hidden, starts))  # (B, H)
        x = self.dense(x).relu()  # (B, width)
        return self.output(self.dropout(x))  # (B, C)
