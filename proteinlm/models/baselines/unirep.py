"""UniRep's multiplicative LSTM over packed proteins.

T tokens of packed proteins, H hidden size, E embedding size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.config.baselines import UniRepConfig
from proteinlm.models import fused_layers
from proteinlm.models.packed import cls_positions, mean_over_tokens, recurrent_order


@final
class UniRep(nn.Module):
    """One layer of 1900 that reads forward (Alley et al. 2019; TAPE ``modeling_unirep.py``).

    - Learnt by recovering masked residues from those before them, as all rows are; the paper predicted the next.
    - [CLS] has UniRep's own representation (``get_rep`` of its published code): the mean over all L + 1 states of a protein
      of L residues, the first of which is that after the start token. TAPE's had the last state and cell, twice as wide.
    """

    def __init__(self, config: UniRepConfig) -> None:
        super().__init__()
        self.hidden_size, inputs = config.hidden_size, config.embedding_size
        self.bias = nn.Parameter(torch.zeros(4 * config.hidden_size))
        self.token_embedding = nn.Embedding(config.vocab_size, inputs)
        self.input_factor = Normalised(inputs, config.hidden_size)
        self.state_factor = Normalised(config.hidden_size, config.hidden_size)
        self.input_gates = Normalised(inputs, 4 * config.hidden_size)
        self.state_gates = Normalised(config.hidden_size, 4 * config.hidden_size)

    def forward(self, tokens: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (T, H) of `tokens` (T,) int64, each protein opened by [CLS]; `starts` (B + 1,) bounds them."""
        states = self.states(tokens, starts)
        return states.index_copy(0, cls_positions(starts), mean_over_tokens(states, starts))

    def states(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """The state after each token, (T, H), that of [CLS] included."""
        by_step = recurrent_order(starts)
        sizes = by_step.sizes.tolist()
        x = self.token_embedding(tokens.index_select(0, by_step.order))  # (T, E)
        from_state, from_product = multiplication_by(self.state_factor()), multiplication_by(self.state_gates())
        to_factor, to_gates = self.input_factor(), self.input_gates()
        hidden = cell = x.new_zeros(sizes[0], self.hidden_size)
        outputs = []
        for size, residues in zip(sizes, x.split(sizes), strict=True):  # the gates of all tokens at once are too many
            product = F.linear(residues, to_factor) * from_state(hidden[:size])
            gates = F.linear(residues, to_gates, self.bias) + from_product(product)
            entry, forget, exit_, update = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * cell[:size] + entry.sigmoid() * update.tanh()
            hidden = exit_.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.cat(outputs).index_select(0, by_step.inverse)


@final
class Normalised(nn.Module):
    """A matrix as one gain for each row, times the row's direction."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        initial = nn.Linear(inputs, outputs, bias=False).weight.detach()
        self.direction = nn.Parameter(initial.clone())
        self.gain = nn.Parameter(initial.norm(dim=1))

    def forward(self) -> Tensor:
        """The matrix (outputs, inputs)."""
        return self.direction * (self.gain / self.direction.norm(dim=1)).unsqueeze(1)


def multiplication_by(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from rows (N, inputs) to their products (N, outputs) with `matrix` (outputs, inputs), many times.

    The matrix is cast to bfloat16 once, and its gradient is one product over the rows of all calls (`_Deferred`). Without
    gradients on a CPU, the matrix is arranged once too: by `fused_layers` if that suits, else by oneDNN. Torch's default
    library arranges it anew each time, and takes up to twice as long.
    """
    kind = matrix.device.type
    if torch.is_autocast_enabled(kind):
        matrix = matrix.to(torch.get_autocast_dtype(kind))
    fused = fused_layers.packed_multiplication(matrix)
    if fused is not None:
        return fused
    if (
        matrix.dtype == torch.float32
        and kind == "cpu"
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    ):
        arranged = matrix.detach().to_mkldnn()
        return lambda rows: F.linear(rows.to_mkldnn(), arranged).to_dense()
    if not (torch.is_grad_enabled() and matrix.requires_grad):
        return partial(F.linear, weight=matrix)
    calls = Calls([], [])
    gathered = _Deferred.apply(matrix, calls)
    return lambda rows: _Multiplication.apply(rows.to(matrix.dtype), matrix.detach(), gathered, calls)


class Calls(NamedTuple):
    """What each multiplication by one matrix says about its gradient, from the last call to the first."""

    rows: list[Tensor]
    """(N, inputs) of each."""
    gradients: list[Tensor]
    """Of the products, (N, outputs) of each."""


class _Deferred(torch.autograd.Function):
    """A matrix whose gradient is summed over all its multiplications at once.

    A sum of one product for each step of a recurrence would write the whole matrix at each step. The empty tensor that this
    returns goes into each multiplication, so that autograd comes back here when all of them have told their part.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, calls: Calls) -> Tensor:
        ctx.calls = calls
        return matrix.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        rows, gradients = map(torch.cat, ctx.calls)
        for part in ctx.calls:
            part.clear()
        return gradients.T @ rows, None


class _Multiplication(torch.autograd.Function):
    """Rows (N, inputs) times a matrix (outputs, inputs), whose gradient is left to `_Deferred`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, gathered: Tensor, calls: Calls) -> Tensor:
        ctx.save_for_backward(rows, matrix, gathered)
        ctx.calls = calls
        return F.linear(rows, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, Tensor, None]:  # type: ignore[override]
        rows, matrix, gathered = ctx.saved_tensors
        ctx.calls.rows.append(rows)
        ctx.calls.gradients.append(upstream)
        return upstream @ matrix, None, torch.zeros_like(gathered), None
