"""Pairs of columns gain what their residues and the pairs around them say, as written down pair by pair."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm.models import contact_evidence
from proteinlm.models.contact_evidence import add_evidence, add_neighbours, residue_potential
from proteinlm.models.potts import GAP_STATE
from proteinlm.vocabulary import AMINO_ACIDS

ROWS, COLUMNS = 5, 9


def alignment() -> tuple[Tensor, Tensor]:
    """States (N, L), with a column of gaps, and weights (N,)."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(0, GAP_STATE + 1, (ROWS, COLUMNS), generator=generator)
    states[:, 3] = GAP_STATE
    return states, torch.rand(ROWS, generator=generator) + 0.1


def symmetric(size: int) -> Tensor:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(4))
    return (scores + scores.T).fill_diagonal_(0)


def test_the_table_says_which_amino_acids_attract_each_other():
    table = np.array(contact_evidence._LOG_ODDS)
    assert table.shape == (20, 20)
    np.testing.assert_array_equal(table, table.T)
    letters = [row[0] for row in contact_evidence._TABLE.strip().splitlines()]
    assert "".join(letters) == AMINO_ACIDS
    of = {(a, b): table[AMINO_ACIDS.index(a), AMINO_ACIDS.index(b)] for a in AMINO_ACIDS for b in AMINO_ACIDS}
    assert max(of, key=lambda pair: of[pair]) == ("C", "C")  # bridges of sulphur
    assert min(of["D", "K"], of["D", "R"], of["E", "K"]) > max(of["D", "D"], of["E", "E"], of["K", "K"], of["R", "K"])
    assert min(of["V", "I"], of["L", "V"], of["F", "V"]) > 0.5


def test_the_potential_is_the_mean_over_rows_of_one_column_and_of_the_other():
    states, weights = alignment()
    found = residue_potential(states, weights)
    table = np.array(contact_evidence._LOG_ODDS)
    for i, j in itertools.product(range(COLUMNS), repeat=2):
        total = of_all = 0.0
        for first, second in itertools.product(range(ROWS), repeat=2):
            a, b = int(states[first, i]), int(states[second, j])
            if GAP_STATE not in (a, b):
                share = float(weights[first] * weights[second])
                total, of_all = total + share * table[a, b], of_all + share
        assert float(found[i, j]) == pytest.approx(total / max(of_all, 1e-12), abs=1e-5)


def test_neighbours_are_the_eight_pairs_around_with_scores_above_zero():
    scores = symmetric(6)
    found = add_neighbours(scores, 0.25)
    for i, j in itertools.product(range(6), repeat=2):
        around = [
            max(0.0, float(scores[k, m]))
            for k in range(max(0, i - 1), min(6, i + 2))
            for m in range(max(0, j - 1), min(6, j + 2))
            if (k, m) != (i, j)
        ]
        expected = 0 if i == j else float(scores[i, j]) + 0.25 * sum(around)
        assert float(found[i, j]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(add_neighbours(scores, 0), scores)


def test_residues_come_before_neighbours_and_count_in_deviations_of_the_scores():
    """The deviation is that of pairs six or more apart; shorter proteins have none."""
    states, weights = alignment()
    scores = symmetric(COLUMNS)
    deviation = np.std([float(scores[i, j]) for i, j in itertools.combinations(range(COLUMNS), 2) if j - i >= 6])
    expected = add_neighbours(scores + 2.0 * float(deviation) * residue_potential(states, weights), 0.5)
    torch.testing.assert_close(add_evidence(scores, states, weights, potential=2.0, neighbours=0.5), expected)
    torch.testing.assert_close(add_evidence(scores, states, weights, potential=0, neighbours=0), scores)
    few = symmetric(6)
    torch.testing.assert_close(add_evidence(few, states[:, :6], weights), add_neighbours(few, 0.25))
