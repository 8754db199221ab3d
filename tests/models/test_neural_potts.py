"""The head can say what any Potts model says, its couplings are symmetric, and its slope is that of its loss."""

import pytest
import torch
from torch import Tensor, nn

from proteinlm.models.neural_potts import GAIN, NeuralPotts
from proteinlm.models.potts import STATES, Potts, fit

COLUMNS = 4
SURE = 60.0
"""The score of a partner; no partner has zero."""


def alignment(rows: int = 40) -> Tensor:
    states = torch.randint(0, STATES, (rows, COLUMNS), generator=torch.Generator().manual_seed(0))
    states[:, 3] = states[:, 0]
    return states


def by_substitution(model: Potts, states: Tensor) -> Tensor:
    """Log-probabilities (N, L) of residues: the energy of a sequence beside those with any state in the same place."""
    columns = []
    for column in range(states.shape[1]):
        each = states.repeat(STATES, 1)
        each[:, column] = torch.arange(STATES).repeat_interleave(len(states))
        energies = model.energies(each).view(STATES, len(states))
        columns.append(-model.energies(states) - (-energies).logsumexp(dim=0))
    return torch.stack(columns, dim=1)


def test_a_head_can_reproduce_a_fitted_model():
    """Hidden states name their place; each pair has a feature, which is one there and zero elsewhere; ranks are full."""
    states = alignment()
    fitted = fit(states, torch.ones(len(states)))
    pairs = [(i, j) for i in range(COLUMNS) for j in range(i)]
    head = NeuralPotts(COLUMNS, len(pairs), 1, STATES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.states.copy_(torch.eye(STATES))
        head.fields.weight.copy_(fitted.fields.T)
        head.first.bias.fill_(-SURE)
        for feature, (i, j) in enumerate(pairs):
            head.query.weight[feature, i] = head.key.weight[feature, j] = (2 * SURE) ** 0.5
            head.matrices[feature] = 2 * fitted.couplings[i, :, j] / GAIN
        found = head(torch.eye(COLUMNS))
    torch.testing.assert_close(found.fields, fitted.fields)
    torch.testing.assert_close(found.couplings, fitted.couplings)
    fresh = torch.randint(0, STATES, (5, COLUMNS), generator=torch.Generator().manual_seed(1))
    for sequences in (states, fresh):
        expected = by_substitution(fitted, sequences)
        torch.testing.assert_close(fitted.log_conditionals(sequences), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(head.log_likelihoods(torch.eye(COLUMNS), sequences), expected, atol=1e-5, rtol=1e-5)
    assert found.contacts().argmax() in (3, 3 * COLUMNS)  # of columns 0 and 3, which are equal


def test_couplings_are_symmetric_and_a_residue_has_none_with_itself():
    torch.manual_seed(0)
    head, hidden = NeuralPotts(8, 5, 3, 4), torch.randn(7, 8)
    model = head(hidden)
    assert model.couplings.abs().max() > 1e-4
    torch.testing.assert_close(model.couplings, model.couplings.permute(2, 3, 0, 1), rtol=0, atol=0)
    assert not model.couplings[range(7), :, range(7)].any()
    assert model.fields.shape == (7, STATES)
    states = torch.randint(0, STATES, (3, 7))
    torch.testing.assert_close(
        head.log_likelihoods(hidden, states), by_substitution(model, states), atol=1e-5, rtol=1e-5
    )


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    head = NeuralPotts(5, 3, 2, 2).double()
    names, values = zip(*head.named_parameters(), strict=True)
    states = alignment(3)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: Tensor) -> Tensor:
            return self.head.log_likelihoods(hidden, states).sum()

    def loss(hidden: Tensor, *parameters: Tensor) -> Tensor:
        given = {f"head.{name}": each for name, each in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Loss(), given, (hidden,))

    hidden = torch.randn(COLUMNS, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (hidden, *values))


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_proteins_have_a_model(length: int):
    model = NeuralPotts(4, 3, 2)(torch.randn(length, 4))
    states = torch.zeros(1, length, dtype=torch.int64)
    assert model.log_conditionals(states).isfinite().all()
    assert model.contacts().isfinite().all()
