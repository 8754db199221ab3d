"""What is read off the hidden states of packed proteins, but for pairs of residues (`pair_heads`). Pure PyTorch.

The task heads take hidden states (T, H) and `starts` (B + 1,): protein b is ``hidden[starts[b] : starts[b + 1]]``, [CLS]
first. Both must hold real proteins only, without the filler that ends a packed stream: pass ``hidden[:tokens]`` and
``starts[: proteins + 1]``. A protein's output does not depend on what it is packed with; dropout and, in training, the
batch normalisation of `ResidueConvolution` excepted.

The defaults are the paper's multilayer perceptrons (ProteinLM ``megatron/model/*classification.py``). The others are
TAPE's and those of the authors' fork of it (``tape/models/modeling_utils.py``), whence part of the published numbers.
Layers keep PyTorch's initial weights, whose standard deviation at a width of 1024 is the 0.018 that Megatron rounds to
0.02, but which suit narrow models too.

T tokens, K of them, B proteins, H hidden size, W width of a layer, C classes, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from proteinlm.config import ModelConfig
from proteinlm.models import mup, shape_buckets
from proteinlm.models.backbone import LAYER_NORM_EPSILON, initialise, positions


class LanguageModelHead(nn.Module):
    """Scores of the vocabulary at some tokens: dense, GELU, LayerNorm, tied decoder, bias (Megatron's ``BertLMHead``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.approximate = "tanh" if config.head_activation == "gelu_tanh" else "none"
        initialise(self, config)
        nn.init.constant_(self.norm.weight, mup.initial_gain(config))

    def forward(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        """Logits (K, V) of the hidden states (K, H) of K tokens; `embedding` (V, H) is the backbone's token table."""
        assert embedding is not None
        x = shape_buckets.fill_rows(hidden)
        x = self.norm(F.gelu(self.dense(x), approximate=self.approximate))  # (K, H)
        return F.linear(x, embedding, self.bias)[: len(hidden)]


@final
class UntiedLanguageModelHead(LanguageModelHead):
    """The same with a decoder of its own, for backbones whose token table is not as wide as their states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        nn.init.normal_(self.decoder, std=0.02)

    def forward(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        return super().forward(hidden, self.decoder)


@final
class NextResidueHead(nn.Module):
    """Scores of the vocabulary from the states of one direction: one linear layer, shared by both."""

    def __init__(self, direction_size: int, vocab_size: int) -> None:
        super().__init__()
        self.output = nn.Linear(direction_size, vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """Logits (K, V) of states (K, H / 2)."""
        return self.output(states)


class Head(nn.Module, ABC):
    """Reads packed proteins in the precision of its own weights, whatever automatic mixed precision the backbone is in:
    most scores are rankings, in which bfloat16 outputs tie by the hundred.
    """

    def forward(self, hidden: Tensor, starts: Tensor) -> Tensor | list[Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.predict(hidden.to(next(self.parameters()).dtype), starts)

    @abstractmethod
    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor | list[Tensor]:
        """What the class says of hidden states (T, H) of proteins bounded by `starts` (B + 1,)."""


class ResidueMLP(Head):
    """Linear, tanh, dropout, linear on every token (paper section 3.2.1): logits (T, C)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.output(self.dropout(self.dense(hidden).tanh()))


class ResidueConvolution(Head):
    """TAPE's ``SimpleConv``: logits (T, C) from the seven tokens around each, zeros beyond the protein's ends.

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
        return convolve(self.output, self.dropout(x.relu()), starts)


class ProteinMLP(Head):
    """Linear (ProteinLM's pooler), tanh, dropout, linear on [CLS] (paper sections 3.2.2, 3.3): logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.output(self.dropout(self.dense(opening(hidden, starts)).tanh()))


class ProteinMean(ProteinMLP):
    """The same layers on every residue, the mean taken after the tanh: logits (B, C). Of neither seed.

    Each residue, which by now knows its surroundings, adds its own part to the answer, as mutations do; [CLS] must first
    learn to look for them.
    """

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        residues = self.dense(hidden).tanh()  # (T, H)
        return self.output(self.dropout(mean_over_residues(residues, starts)))


class ProteinPositions(Head):
    """Weights of their own at every position, for what differs there from the mean over proteins: logits (B, C). Of neither
    seed.

    For variants of one protein: what a mutation does depends on where it is, which the other heads must learn from what
    surrounds it. A linear model of the mutations (their one-hot encoding) is what it comes to on states that say which
    residue they are of. Positions that training has not seen add nothing.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, hidden_size: int, classes: int, dropout: float, positions: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(positions, classes * hidden_size))
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(positions, hidden_size))
        self.register_buffer("seen", torch.zeros(positions))

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        place = positions(starts, len(hidden))  # (T,)
        if self.training:
            self.follow(hidden.detach(), place)
        x = self.dropout((hidden - self.mean[place]) * self.seen[place].unsqueeze(-1))  # (T, H)
        x = x * x.shape[-1] ** -0.5  # a step of the optimiser moves all H weights of a mutated position at once
        weight = F.embedding(place, self.weight).unflatten(-1, (-1, x.shape[-1]))  # (T, C, H)
        return sum_of_proteins(torch.einsum("th,tch->tc", x, weight), starts) + self.bias

    def follow(self, hidden: Tensor, place: Tensor) -> None:
        """Move the means of the positions that a batch has a tenth of the way to the batch's; the first time, all of it."""
        here = torch.zeros_like(self.seen).index_add(0, place, torch.ones_like(hidden[:, 0]))  # (positions,)
        batch = torch.zeros_like(self.mean).index_add(0, place, hidden) / here.clamp(min=1).unsqueeze(-1)
        share = torch.where(self.seen > 0, 0.1, 1.0) * (here > 0)
        self.mean.lerp_(batch, share.unsqueeze(-1))
        self.seen.copy_(torch.maximum(self.seen, here.clamp(max=1)))


class ProteinLinear(Head):
    """One linear layer on [CLS]: logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, classes)

    def predict(self, hidden: Tensor, starts: Tensor) -> Tensor:
        return self.output(self.dropout(opening(hidden, starts)))


class ProteinWeightNorm(Head):
    """TAPE's ``SimpleMLP`` on its pooler: linear and tanh on [CLS], then two weight-normalised layers: logits (B, C).

    The authors' fork has `width` 1024 and no `pooler`; the fork's [CLS] also lacked the final LayerNorm.
    """

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
        return self.output(self.dropout(self.dense(self.pooler(opening(hidden, starts))).relu()))


class WeightNorm(nn.Module):
    """A weight as one gain, for the whole tensor, times its direction: ``weight_norm(dim=None)``, as TAPE has it.

    PyTorch's own keeps the gain as a scalar, which FSDP2 refuses to shard.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        return direction * (gain / direction.norm())

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.norm().reshape(1), weight


def opening(hidden: Tensor, starts: Tensor) -> Tensor:
    """Hidden states (B, H) of the [CLS] that open the proteins."""
    return hidden[starts[:-1].long()]


def mean_over_residues(x: Tensor, starts: Tensor) -> Tensor:
    """Mean of x (T, W) over the residues of each protein, without [CLS], (B, W)."""
    return (sum_of_proteins(x, starts) - opening(x, starts)) / (starts.diff() - 1).unsqueeze(-1)


def sum_of_proteins(x: Tensor, starts: Tensor) -> Tensor:
    """Sum of x (T, W) over the tokens of each protein, (B, W)."""
    protein = torch.repeat_interleave(starts.diff().long(), output_size=len(x))  # (T,)
    return x.new_zeros(len(starts) - 1, x.shape[1]).index_add(0, protein, x)


def convolve(convolution: nn.Conv1d, x: Tensor, starts: Tensor) -> Tensor:
    """Apply a convolution to (T, W) as if to each protein alone, zeros beyond its ends.

    The proteins are laid out with zeros between them, as many as the convolution reaches to one side.
    """
    reach = convolution.kernel_size[0] // 2
    token = torch.arange(len(x), device=x.device)
    place = token + reach * torch.searchsorted(starts[1:].long(), token, right=True)  # (T,)
    apart = x.new_zeros(len(x) + reach * (len(starts) - 1), x.shape[1]).index_copy(0, place, x)
    return convolution(apart.T.unsqueeze(0)).squeeze(0).T[place]
