"""The Potts model of an alignment: a field for each residue of each column, a coupling for each two of two columns.

It is fitted by pseudo-likelihood: each column is predicted from all others, by logistic regression with an L2 penalty, and
the two couplings that a pair of columns so gets are averaged (Ekeberg et al. 2013, 2014). Contacts are the norms of the
couplings less their average product (Dunn et al. 2008). The penalty of couplings is that of CCMpred, GREMLIN and
EVcouplings; that of fields counts from the frequencies of each column (Vorberg et al. 2018), as a letter that a column has
never seen would otherwise get a field that grows with the alignment.

N rows, L columns, Q states of a column: the 20 amino acids and the gap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.vocabulary import AMINO_ACIDS

STATES = len(AMINO_ACIDS) + 1
GAP_STATE = len(AMINO_ACIDS)
FIELD_PENALTY = 10.0
"""What is added to the weighted loss for each squared difference of a field and the logarithm of its frequency."""
COUPLING_PENALTY = 0.01
"""Times (Q - 1) (L - 1): what is added to the weighted loss for each squared coupling."""
ITERATIONS = 30
TOLERANCE = 1e-3
COLUMNS_AT_ONCE = 16  # the vectors of their optimizer stay in a core's cache
DIRECTIONS = 128
"""Eigenvectors of the rows' inner products that the preconditioner knows."""
DENSE = 5
"""Rows for each column, up to which it is quicker to keep the inner products of all rows."""
SECANTS = 3

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
        at_once = max(1, 2**19 // states.shape[1] ** 2)  # rows whose pairs, and five indices of each, are small
        return torch.cat([self._energies(part) for part in states.split(at_once)])

    def _energies(self, states: Tensor) -> Tensor:
        column = torch.arange(len(self.fields), device=states.device)
        single = self.fields[column, states].sum(dim=1)
        first, second = states[:, :, None], states[:, None, :]
        pairs = self.couplings[column[:, None], first, column, second]  # (n, L, L), each pair twice
        return -(single + pairs.sum(dim=(1, 2)) / 2)

    def log_conditionals(self, states: Tensor) -> Tensor:
        """The log-probability (N, L) of each residue of sequences (N, L) int64, given all others of the same sequence."""
        length, q = self.fields.shape
        hot = F.one_hot(states, q).flatten(1).to(self.fields.dtype)
        scores = (hot @ self.couplings.reshape(length * q, length * q)).view(-1, length, q) + self.fields
        return scores.log_softmax(dim=-1).gather(-1, states[:, :, None]).squeeze(-1)

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
    """Bytes that `fit` and `Potts.contacts` hold at most: three times the couplings, and the vectors of a block."""
    couplings = 4 * (columns * STATES) ** 2
    vectors = 4 * rows * _columns_at_once(rows) * STATES
    products = (
        4 * rows * (rows + columns * STATES)
        if rows <= DENSE * columns
        else 8 * columns * STATES * COLUMNS_AT_ONCE * STATES
    )
    return 3 * couplings + 20 * vectors + products + 12 * rows * DIRECTIONS + 24 * rows * columns


def fit(
    states: Tensor,
    weights: Tensor,
    *,
    field_penalty: float = FIELD_PENALTY,
    coupling_penalty: float = COUPLING_PENALTY,
    iterations: int = ITERATIONS,
    fitted: Callable[[int], None] = lambda columns: None,
    tolerance: float = TOLERANCE,
    q: int = STATES,
) -> Potts:
    """Fit a Potts model to rows (N, L) int64, each counted by its weight (N,) above zero, on their device.

    `fitted` hears how many columns more are done. A column is done after so many `iterations`, or when its loss is above
    the least by about half of `tolerance` times the sum of the weights.
    """
    length = states.shape[1]
    penalty = coupling_penalty * (q - 1) * (length - 1) / 2  # of one of the two directions
    rows = _Rows(states, weights, q, penalty / field_penalty)
    fields = weights.new_empty(length, q)
    couplings = weights.new_empty(length * q, length, q)
    at_once = _columns_at_once(len(states))
    for first in range(0, length, at_once):
        block = _Block(rows, range(first, min(first + at_once, length)), penalty)
        here = slice(first, first + at_once)
        fields[here], couplings[:, here] = block.fit(iterations, tolerance * float(weights.sum()))
        fitted(len(block.columns))
    whole = couplings.view(length * q, length * q)
    return Potts(fields, whole.add(whole.T).div_(2).view(length, q, length, q))


def fit_independent(states: Tensor, weights: Tensor, *, field_penalty: float = FIELD_PENALTY, q: int = STATES) -> Potts:
    """Fit the same model without couplings, the control: each column by itself, with the same penalty of fields."""
    length = states.shape[1]
    counts = weights.new_zeros(length, q)
    counts.scatter_add_(1, states.T, weights.expand(length, -1))
    centre = _log_frequencies(states, weights, q)
    fields, identity = centre.clone(), torch.eye(q, device=centre.device, dtype=centre.dtype)
    for _ in range(20):  # of Newton's method, from nearby
        share = fields.softmax(dim=1)
        slope = weights.sum() * share - counts + 2 * field_penalty * (fields - centre)
        curvature = weights.sum() * (share.diag_embed() - share[:, :, None] * share[:, None])
        fields -= torch.linalg.solve(curvature + 2 * field_penalty * identity, slope)
    return Potts(fields, weights.new_zeros(length, 1, length, 1).expand(length, q, length, q))


class _Rows:
    """Rows of an alignment as one-hot vectors with a constant beside them, which the fields multiply.

    The square of the constant, `constant`, is how much dearer a coupling is than a field; so one penalty does for both.
    """

    def __init__(self, states: Tensor, weights: Tensor, q: int, constant: float) -> None:
        self.states, self.weights, self.q, self.constant = states, weights, q, constant
        self.length = states.shape[1]
        self.residues = states + q * torch.arange(self.length, device=states.device)  # (N, L)
        flat = self.residues.T.flatten()
        self.owners = flat.argsort(stable=True) % len(states)  # rows that have residue 0, those that have 1, ...
        counts = torch.bincount(flat, minlength=self.length * q)
        self.begins = counts.cumsum(0) - counts
        self.inner_products = _inner_products(states, q, weights.dtype) if len(states) <= DENSE * self.length else None

    def transposed_times(self, matrix: Tensor) -> Tensor:
        """Transposed one-hot rows (L Q, N) times a matrix (N, K): (L Q, K)."""
        return F.embedding_bag(self.owners, matrix, self.begins, mode="sum")

    def products(self, matrix: Tensor) -> Tensor:
        """The inner products of rows with rows (N, N) times a matrix (N, K): (N, K)."""
        if self.inner_products is None:
            found = F.embedding_bag(self.residues, self.transposed_times(matrix), mode="sum")
        else:
            found = self.inner_products @ matrix
        return found.add_(self.constant * matrix.sum(dim=0))

    @cached_property
    def principal(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """What the preconditioner knows of the rows' weighted inner products, by subspace iteration from a random start.

        Directions (N, K), their products with all rows (N, K), their eigenvalues (K,), the mean of the other eigenvalues.
        """
        root = self.weights.sqrt()[:, None]
        rank = min(len(root), self.length * (self.q - 1) + 1)
        count = min(rank, DIRECTIONS)
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(len(root), count, generator=generator).to(root)
        for _ in range(3):
            basis = torch.linalg.qr(root * self.products(root * basis)).Q
        products = self.products(root * basis)
        values, inner = torch.linalg.eigh(basis.T @ (root * products))
        trace = float(self.weights.sum()) * (self.length + self.constant)
        others = max(0.0, trace - float(values.sum())) / max(1, rank - count)
        return root * (basis @ inner), products @ inner, values.clamp_min(1e-6 * values[-1]), others


class _Block:
    """The logistic regressions of some columns (B) on all others, each by conjugate gradients.

    The weights of a penalised regression are a weighted sum of the rows it was fitted to. So it is enough to look for
    how much each row counts in them, its shares (N, B, Q), and only inner products of rows are needed. The
    preconditioner is the inverse of the Hessian with the curvature of each state averaged over the rows.
    """

    def __init__(self, rows: _Rows, columns: range, penalty: float) -> None:
        self.rows, self.columns, self.penalty = rows, columns, penalty
        self.weights = rows.weights[:, None, None]
        here = rows.states[:, columns.start : columns.stop]
        self.targets = here.unsqueeze(-1)  # (N, B, 1)
        self.centre = _log_frequencies(here, rows.weights, rows.q)
        self.own = here + rows.q * torch.arange(len(columns), device=here.device)  # residues among those of the block

    def fit(self, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
        """Fields (B, Q) and couplings (L Q, B, Q) where the loss is least."""
        scores = self.centre.repeat(len(self.own), 1, 1)
        shares = torch.zeros_like(scores)
        slope, curvature = self.slope(scores)
        direction = along = before = None
        for _ in range(iterations):
            residual = slope.add_(shares, alpha=2 * self.penalty).neg_()
            step, step_scores = self._precondition(residual, curvature)
            gain = _inner(residual, step_scores)
            if float(gain.max()) <= tolerance:
                break
            if direction is None or along is None or before is None:
                direction, along = step, step_scores
            else:  # the mixture of Polak and Ribiere
                turned = _inner(before[0], step_scores)
                mixture = ((gain - turned) / before[1].clamp_min(tolerance)).clamp_min(0)[:, None]
                direction, along = direction.mul_(mixture).add_(step), along.mul_(mixture).add_(step_scores)
                if (uphill := _inner(residual, along) <= 0).any():
                    direction = torch.where(uphill[:, None], step, direction)
                    along = torch.where(uphill[:, None], step_scores, along)
            before = residual, gain
            size, slope, curvature = self._search(shares, scores, direction, along, residual, tolerance)
            shares.addcmul_(size, direction)
            scores.addcmul_(size, along)
        return self.weights_of(shares)

    def weights_of(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Fields (B, Q) and couplings (L Q, B, Q) of shares (N, B, Q)."""
        count, q = len(self.columns), self.rows.q
        couplings = self.rows.transposed_times(shares.flatten(1)).view(self.rows.length, q, count, q)
        own = torch.arange(count, device=shares.device)
        couplings[own + self.columns.start, :, own] = 0  # a column does not predict itself
        return self.centre + self.rows.constant * shares.sum(dim=0), couplings.view(-1, count, q)

    def scores(self, shares: Tensor) -> Tensor:
        """What the weights of shares (N, B, Q) add to the scores of the states of each row, (N, B, Q)."""
        return self._without_own(self.rows.products(shares.flatten(1)).view_as(shares), shares)

    def _without_own(self, scores: Tensor, shares: Tensor) -> Tensor:
        """Scores less what a column's own residue adds to them, which may not predict itself."""
        count, q = len(self.columns), self.rows.q
        of_residue = shares.new_zeros(count * q, q).index_add_(0, self.own.flatten(), shares.flatten(0, 1))
        return scores.sub_(of_residue[self.own])

    def slope(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of the loss (N, B, Q) at scores without penalty, and its mean curvature for each state (B, Q)."""
        probability = scores.softmax(dim=-1)
        weighted = self.weights * probability
        curvature = (weighted - weighted * probability).sum(dim=0) / self.weights.sum()
        return weighted.scatter_add_(-1, self.targets, -self.weights.expand_as(self.targets)), curvature

    def _precondition(self, residual: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """The step (N, B, Q) that a Hessian of this curvature (B, Q) would take, and its scores."""
        directions, products, values, others = self.rows.principal
        residual_scores = self.scores(residual)
        flat = 1 / (curvature * others + 2 * self.penalty)
        found = (directions.T @ residual_scores.flatten(1)).view(-1, *curvature.shape)
        found.mul_(1 / (curvature * values[:, None, None] + 2 * self.penalty) - flat).div_(values[:, None, None])
        known = (directions @ found.flatten(1)).view_as(residual)
        known_scores = self._without_own((products @ found.flatten(1)).view_as(residual), known)
        return known.addcmul_(flat, residual), known_scores.addcmul_(flat, residual_scores)

    def _search(
        self, shares: Tensor, scores: Tensor, direction: Tensor, along: Tensor, residual: Tensor, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How far to go (B, 1) in a direction by the rule of secants, and slope and curvature there."""
        first = -_inner(residual, along)
        still, growing = (2 * self.penalty * _inner(each, along) for each in (shares, direction))
        size = torch.ones_like(first)
        slope, curvature = self.slope(torch.addcmul(scores, size[:, None], along))
        for _ in range(SECANTS):
            here = _inner(slope, along) + still + size * growing
            if (here.abs() <= 0.1 * first.abs().clamp_min(tolerance)).all():
                break
            size = size * (first / (first - here).clamp_max(-1e-30)).clamp(0.1, 10)
            slope, curvature = self.slope(torch.addcmul(scores, size[:, None], along))
        return size[:, None], slope, curvature


def _inner_products(states: Tensor, q: int, dtype: torch.dtype) -> Tensor:
    """In how many columns each two rows agree, (N, N)."""
    hot = F.one_hot(states, q).flatten(1).to(dtype)
    return hot @ hot.T


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """The sums (B,) of products of two tensors (N, B, Q)."""
    return (first * second).sum(dim=(0, 2))


def _columns_at_once(rows: int) -> int:
    """Columns whose vectors, of a deep alignment too, stay small beside the couplings."""
    return max(1, min(COLUMNS_AT_ONCE, 2**18 // rows))


def _log_frequencies(states: Tensor, weights: Tensor, q: int) -> Tensor:
    """The logarithms of the weighted frequencies (L, Q), one observation of each state added, zero in sum."""
    length = states.shape[1]
    counts = weights.new_ones(length, q)
    counts.scatter_add_(1, states.T, weights.expand(length, -1))
    logs = counts.log()
    return logs - logs.mean(dim=1, keepdim=True)


def _unbiased(norm: Tensor) -> float:
    """What makes sums over a matrix (L, L) without its diagonal means over the pairs."""
    length = len(norm)
    return length / (length - 1) if length > 1 else 1.0
