"""A neural Potts model: the fields and couplings of a whole family, guessed from one protein of it (Sercu et al. 2021).

A Potts model is fitted to one alignment and knows nothing of others. This head over a backbone learns from many alignments
which couplings a protein's relatives will show, and then needs none. It is trained by what a Potts model is fitted by, the
pseudo-likelihood of relatives: each of their residues is predicted from all others, with the parameters that the head
reads off the query's hidden states.

A pair of residues i and j has features: products of a query vector of i and a key vector of j, and a contribution of
either residue alone, through two softmaxes as in attention, over the partners of i and over those of j. So residues compete
for each other, and a feature is near one where either is the other's only partner; it may also have none. A linear map
makes a matrix of the features, which couples the embeddings of the two amino acids. So a coupling has a rank, and training
needs no table of all couplings.

L residues of the protein, H hidden size, F features of a pair, W width of a vector, N relatives, Q states of a residue,
R rank of a coupling.
"""

from collections.abc import Mapping
from math import sqrt
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.models.potts import STATES, Potts

FEATURES = 64
WIDTH = 16
RANK = 8
GAIN = 8.0
"""Of the couplings: features begin as small as one over the residues."""
NEVER = -1e4


class NeuralPotts(nn.Module):
    """The head: hidden states of a protein's residues in, a Potts model of its family out."""

    def __init__(self, hidden_size: int, features: int = FEATURES, width: int = WIDTH, rank: int = RANK) -> None:
        super().__init__()
        self.features: int = features
        self.fields: nn.Linear = nn.Linear(hidden_size, STATES)
        self.query: nn.Linear = nn.Linear(hidden_size, features * width, bias=False)
        self.key: nn.Linear = nn.Linear(hidden_size, features * width, bias=False)
        self.first: nn.Linear = nn.Linear(hidden_size, features)
        self.second: nn.Linear = nn.Linear(hidden_size, features, bias=False)
        self.matrices: nn.Parameter = nn.Parameter(torch.randn(features, rank, rank) / rank / sqrt(features))
        self.states: nn.Parameter = nn.Parameter(torch.randn(STATES, rank) / sqrt(rank))

    @classmethod
    def of_sizes(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> Self:
        """A head, with random weights, of the sizes that saved tensors have, whose names have a `prefix`."""
        features, rank, _ = tensors[f"{prefix}matrices"].shape
        vectors, hidden_size = tensors[f"{prefix}query.weight"].shape
        return cls(hidden_size, features, vectors // features, rank)

    def forward(self, hidden: Tensor) -> Potts:
        """The Potts model of the family of a protein, from the hidden states (L, H) of its residues."""
        couplings = torch.einsum("irjs,ar,bs->iajb", self._coupled(hidden), self.states, self.states)
        return Potts(self.fields(hidden), (couplings + couplings.permute(2, 3, 0, 1)) / 2)  # rounded alike

    def log_likelihoods(self, hidden: Tensor, states: Tensor) -> Tensor:
        """The log-probability (N, L) of each residue of relatives (N, L) int64, given all others of the same relative.

        `hidden` (L, H) are the hidden states of the query.
        """
        embedded = self.states[states]  # (N, L, R)
        around = torch.einsum("irjs,njs->nir", self._coupled(hidden), embedded)
        logits = around @ self.states.T + self.fields(hidden)  # (N, L, Q)
        return logits.log_softmax(dim=-1).gather(-1, states[:, :, None]).squeeze(-1)

    def _coupled(self, hidden: Tensor) -> Tensor:
        """What couples the embeddings of the residues of each pair, (L, R, L, R): symmetric, zero within a residue."""
        length, rank = len(hidden), self.matrices.shape[-1]
        one_way = self.features_of_pairs(hidden).flatten(1).T @ self.matrices.flatten(1) * GAIN
        one_way = one_way.view(length, length, rank, rank).transpose(1, 2)
        return (one_way + one_way.permute(2, 3, 0, 1)) / 2

    def features_of_pairs(self, hidden: Tensor) -> Tensor:
        """The features (F, L, L) of ordered pairs, from 0 to 1; 0 of a residue with itself."""
        query, key = (
            each(hidden).unflatten(-1, (self.features, -1)).transpose(0, 1) for each in (self.query, self.key)
        )
        products = query @ key.mT / sqrt(query.shape[-1])  # (F, L, L)
        scores = products + self.first(hidden).T[:, :, None] + self.second(hidden).T[:, None]
        scores = scores.masked_fill(torch.eye(len(hidden), dtype=torch.bool, device=hidden.device), NEVER)
        by_first, by_second = (F.softplus(scores.logsumexp(dim, keepdim=True)) for dim in (-1, -2))  # with "none", of 0
        return (scores - (by_first + by_second) / 2).exp()
