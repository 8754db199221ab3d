"""The Potts model of an alignment: a field for each residue of each column, a coupling for each two of two columns.

It is fitted by pseudo-likelihood: each column is predicted from all others, by logistic regression with an L2 penalty, and
the two couplings that a pair of columns so gets are averaged (Ekeberg et al. 2013, 2014). Contacts are the norms of the
couplings less their average product (Dunn et al. 2008). The penalties are those of CCMpred, GREMLIN and EVcouplings.

N rows, L columns, Q states of a column: the 20 amino acids and the gap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.vocabulary import AMINO_ACIDS

STATES = len(AMINO_ACIDS) + 1
GAP_STATE = len(AMINO_ACIDS)
FIELD_PENALTY = 0.01
COUPLING_PENALTY = 0.01
"""Times (Q - 1) (L - 1): what is added to the weighted loss for each squared coupling."""
ITERATIONS = 40
COLUMNS_AT_ONCE = 16  # the vectors of their optimizer stay in a core's cache
HISTORY = 5

_STATE_OF_BYTE = np.full(256, GAP_STATE, np.int64)
_STATE_OF_BYTE[list(AMINO_ACIDS.encode())] = range(len(AMINO_ACIDS))


def states_of(letters: np.ndarray) -> np.ndarray:
    """The states (N, L) int64 of letters (N, L) uint8; what is none of the 20 amino acids counts as a gap."""
    return _STATE_OF_BYTE[letters]


@dataclass(frozen=True)
class Potts:
    """A distribution over sequences: the log-probability is, up to a constant, the sum of fields and couplings."""

    fields: Tensor
    """(L, Q)."""
    couplings: Tensor
    """(L, Q, L, Q), symmetric, zero within a column."""

    def energies(self, states: Tensor) -> Tensor:
        """Minus the log-probability (N,) of sequences (N, L) int64, up to a constant that all share."""
        return torch.cat([self._energies(part) for part in states.split(64)])

    def _energies(self, states: Tensor) -> Tensor:
        column = torch.arange(len(self.fields), device=states.device)
        single = self.fields[column, states].sum(dim=1)
        first, second = states[:, :, None], states[:, None, :]
        pairs = self.couplings[column[:, None], first, column, second]  # (n, L, L), each pair twice
        return -(single + pairs.sum(dim=(1, 2)) / 2)

    def contacts(self) -> Tensor:
        """Scores (L, L) of the pairs of columns, higher where they likelier touch, zero on the diagonal.

        Frobenius norm of the couplings among amino acids in the zero-sum gauge, corrected by the average product.
        """
        j = self.couplings
        j = j - j.mean(dim=1, keepdim=True) - j.mean(dim=3, keepdim=True) + j.mean(dim=(1, 3), keepdim=True)
        norm = j[:, :GAP_STATE, :, :GAP_STATE].square().sum(dim=(1, 3)).sqrt()
        norm.fill_diagonal_(0)
        score = norm - norm.sum(dim=0) * norm.sum(dim=1, keepdim=True) / norm.sum().clamp_min(1e-12) * _unbiased(norm)
        return score.fill_diagonal_(0)


def bytes_needed(rows: int, columns: int) -> int:
    """Bytes that `fit` and `Potts.contacts` hold at most: three times the couplings, and a block of columns."""
    couplings = 4 * (columns * STATES) ** 2
    vectors = 4 * columns * STATES * COLUMNS_AT_ONCE * STATES
    return 3 * couplings + (2 * HISTORY + 8) * vectors + 4 * rows * COLUMNS_AT_ONCE * STATES * 4 + 24 * rows * columns


def fit(
    states: Tensor,
    weights: Tensor,
    *,
    field_penalty: float = FIELD_PENALTY,
    coupling_penalty: float = COUPLING_PENALTY,
    iterations: int = ITERATIONS,
    fitted: Callable[[int], None] = lambda columns: None,
    tolerance: float = 1e-5,
    q: int = STATES,
) -> Potts:
    """Fit a Potts model to rows (N, L) int64, each counted by its weight (N,), on their device.

    `fitted` hears how many columns more are done. A block of columns is done after `iterations` of L-BFGS, or when no
    entry of its gradient is above `tolerance` times the sum of the weights.
    """
    length = states.shape[1]
    penalty = coupling_penalty * (q - 1) * (length - 1)
    rows = _Rows(states, q)
    fields = _log_frequencies(states, weights, q)
    couplings = weights.new_zeros(length * q, length, q)
    for first in range(0, length, COLUMNS_AT_ONCE):
        block = _Block(rows, weights, range(first, min(first + COLUMNS_AT_ONCE, length)), field_penalty, penalty / 2)
        here = slice(first, first + COLUMNS_AT_ONCE)
        fields[here], couplings[:, here] = block.fit(fields[here], iterations, tolerance)
        fitted(len(block.columns))
    whole = couplings.view(length * q, length * q)
    return Potts(fields, whole.add(whole.T).div_(2).view(length, q, length, q))


def fit_independent(states: Tensor, weights: Tensor, *, field_penalty: float = FIELD_PENALTY, q: int = STATES) -> Potts:
    """Fit the same model without couplings, the control: each column by itself, with the same penalty of fields."""
    length = states.shape[1]
    counts = weights.new_zeros(length, q)
    counts.scatter_add_(1, states.T, weights.expand(length, -1))
    fields = _log_frequencies(states, weights, q)
    total = weights.sum()

    def penalised(h: Tensor) -> Tensor:
        return (total * h.logsumexp(dim=1) - (counts * h).sum(dim=1)).sum() + field_penalty * h.square().sum()

    _minimise(fields.view(-1), lambda flat: _with_gradient(penalised, flat.view(length, q)), 500, 1e-7 * float(total))
    return Potts(fields, weights.new_zeros(length, 1, length, 1).expand(length, q, length, q))


class _Rows:
    """Rows of an alignment as indices of the residues they have, and the other way round."""

    def __init__(self, states: Tensor, q: int) -> None:
        self.states, self.q = states, q
        self.length = states.shape[1]
        self.residues = states + q * torch.arange(self.length, device=states.device)  # (N, L)
        flat = self.residues.T.flatten()
        self.owners = flat.argsort(stable=True) % len(states)  # rows that have residue 0, those that have 1, ...
        counts = torch.bincount(flat, minlength=self.length * q)
        self.begins = counts.cumsum(0) - counts

    def times(self, matrix: Tensor) -> Tensor:
        """One-hot rows (N, L Q) times a matrix (L Q, K): (N, K)."""
        return F.embedding_bag(self.residues, matrix, mode="sum")

    def transposed_times(self, matrix: Tensor) -> Tensor:
        """Transposed one-hot rows (L Q, N) times a matrix (N, K): (L Q, K)."""
        return F.embedding_bag(self.owners, matrix, self.begins, mode="sum")


class _Block:
    """The logistic regressions of some columns (B) on all others."""

    def __init__(self, rows: _Rows, weights: Tensor, columns: range, field_penalty: float, penalty: float) -> None:
        self.rows, self.weights, self.columns = rows, weights, columns
        self.field_penalty, self.penalty = field_penalty, penalty
        self.targets = rows.states[:, columns.start : columns.stop].unsqueeze(-1)  # (N, B, 1)

    def fit(self, fields: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
        """Fields (B, Q) and couplings (L Q, B, Q) at the least loss, from `fields` and no couplings."""
        size, wide = fields.numel(), self.rows.length * self.rows.q
        flat = torch.cat([fields.flatten(), fields.new_zeros(wide * size)])
        _minimise(flat, self.loss, iterations, tolerance * float(self.weights.sum()))
        return flat[:size].view_as(fields), flat[size:].view(wide, len(self.columns), self.rows.q)

    def loss(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted, penalised loss and its gradient at fields and couplings laid end to end."""
        count, q = len(self.columns), self.rows.q
        size = count * q
        fields, couplings = flat[:size].view(count, q), flat[size:].view(-1, size)
        logs = self.rows.times(couplings).view(-1, count, q).add_(fields).log_softmax(dim=-1)
        loss = -(self.weights[:, None] * logs.gather(-1, self.targets).squeeze(-1)).sum()
        loss = loss + self.field_penalty * fields.square().sum() + self.penalty * couplings.square().sum()
        error = (
            logs.exp_()
            .scatter_add_(-1, self.targets, torch.full_like(logs[..., :1], -1))
            .mul_(self.weights[:, None, None])
        )
        by_coupling = self.rows.transposed_times(error.view(-1, size))
        own = torch.arange(count, device=flat.device)
        by_coupling.view(-1, q, count, q)[own + self.columns.start, :, own] = 0  # a column does not predict itself
        by_coupling.add_(couplings, alpha=2 * self.penalty)
        by_field = error.sum(dim=0).add_(fields, alpha=2 * self.field_penalty)
        return loss, torch.cat([by_field.flatten(), by_coupling.flatten()])


def _minimise(flat: Tensor, loss: Callable[[Tensor], tuple[Tensor, Tensor]], iterations: int, tolerance: float) -> None:
    """Change `flat` in place to where `loss`, which comes with its gradient, is least, by L-BFGS."""
    parameter = torch.nn.Parameter(flat)
    optimizer = torch.optim.LBFGS(
        [parameter],
        max_iter=iterations,
        max_eval=ceil(1.5 * iterations),
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance,
        tolerance_change=0,
    )

    @torch.no_grad()
    def closure() -> Tensor:
        value, parameter.grad = loss(parameter.detach())
        return value

    optimizer.step(closure)  # type: ignore[arg-type]


def _with_gradient(function: Callable[[Tensor], Tensor], values: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        loss = function(values)
        (gradient,) = torch.autograd.grad(loss, values)
    return loss.detach(), gradient.flatten()


def _log_frequencies(states: Tensor, weights: Tensor, q: int) -> Tensor:
    """Where the fit begins: logarithms of the weighted frequencies (L, Q), one observation added, zero in sum."""
    length = states.shape[1]
    counts = weights.new_ones(length, q)
    counts.scatter_add_(1, states.T, weights.expand(length, -1))
    logs = counts.log()
    return logs - logs.mean(dim=1, keepdim=True)


def _unbiased(norm: Tensor) -> float:
    """What makes sums over a matrix (L, L) without its diagonal means over the pairs."""
    length = len(norm)
    return length / (length - 1) if length > 1 else 1.0
