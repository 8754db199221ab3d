"""A Potts model is at the optimum that a sum over all sequences finds, and its couplings show which columns touch."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from proteinlm.config import SyntheticDataConfig
from proteinlm.data.synthetic.families import Role, generator_of, members, universe_of
from proteinlm.data.synthetic.folds import contacts
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.models import potts
from proteinlm.models.potts import GAP_STATE, Potts, fit, fit_independent, states_of
from proteinlm.records.contact_map import most_confident

COLUMNS, Q, ROWS = 4, 3, 30
FIELD, COUPLING = 0.3, 0.05


def toy(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(0, Q, (ROWS, COLUMNS), generator=generator)
    states[:, 3] = torch.where(torch.rand(ROWS, generator=generator) < 0.8, states[:, 0], states[:, 3])
    return states, torch.rand(ROWS, generator=generator, dtype=dtype) + 0.1


def centre(states: Tensor, weights: Tensor) -> np.ndarray:
    """What the penalty of fields counts from: log-frequencies with one observation added, zero in sum."""
    columns = states.numpy().T
    logs = np.log([1 + np.bincount(column, weights.numpy(), minlength=Q) for column in columns])
    return logs - logs.mean(axis=1, keepdims=True)


def brute_force(parameters: np.ndarray, states: Tensor, weights: Tensor) -> float:
    """The penalised pseudo-likelihood, written down column by column."""
    fields = parameters[: COLUMNS * Q].reshape(COLUMNS, Q)
    couplings = parameters[COLUMNS * Q :].reshape(COLUMNS, Q, COLUMNS, Q)  # [j, b, i, a]: of b in j on a in i
    loss = FIELD * ((fields - centre(states, weights)) ** 2).sum()
    for i, j in itertools.permutations(range(COLUMNS), 2):
        loss += COUPLING * (Q - 1) * (COLUMNS - 1) / 2 * (couplings[j, :, i, :] ** 2).sum()
    for i in range(COLUMNS):
        scores = fields[i] + sum(couplings[j, states[:, j], i] for j in range(COLUMNS) if j != i)  # (N, Q)
        probability = np.exp(scores)[np.arange(ROWS), states[:, i]] / np.exp(scores).sum(axis=1)
        loss -= (weights.numpy() * np.log(probability)).sum()
    return loss


def test_the_gradient_is_the_slope_of_the_loss_by_brute_force():
    states, weights = toy()
    penalty = COUPLING * (Q - 1) * (COLUMNS - 1) / 2
    block = potts._Block(potts._Rows(states, weights, Q, penalty / FIELD), range(COLUMNS), penalty)
    shares = torch.randn(ROWS, COLUMNS, Q, generator=torch.Generator().manual_seed(1)).double() / 10
    fields, couplings = block.weights_of(shares)
    at = torch.cat([fields.flatten(), couplings.flatten()]).numpy()
    slope, _ = block.slope(block.centre + block.scores(shares))
    by_field, by_coupling = block.weights_of(slope + 2 * penalty * shares)
    gradient = torch.cat([(by_field - block.centre).flatten() / (penalty / FIELD), by_coupling.flatten()]).tolist()
    own = torch.zeros(COLUMNS, Q, COLUMNS, Q)
    own[range(COLUMNS), :, range(COLUMNS)] = 1
    own = torch.cat([torch.zeros(COLUMNS * Q), own.flatten()]).bool()
    assert not at[own].any()  # a column does not predict itself
    step = 1e-5
    for place in range(len(at)):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        by_hand = (brute_force(up, states, weights) - brute_force(down, states, weights)) / (2 * step)
        assert gradient[place] == pytest.approx(0 if own[place] else by_hand, abs=1e-6)


def test_the_optimum_is_that_of_brute_force(monkeypatch: pytest.MonkeyPatch):
    """The two couplings of a pair of columns are averaged. However a step is made, the end is the same."""
    states, weights = toy()
    start = np.zeros(COLUMNS * Q * (1 + COLUMNS * Q))
    found = minimize(brute_force, start, (states, weights), method="BFGS", options={"gtol": 1e-5}).x
    fields, one_way = found[: COLUMNS * Q].reshape(COLUMNS, Q), found[COLUMNS * Q :].reshape(COLUMNS, Q, COLUMNS, Q)
    one_way[range(COLUMNS), :, range(COLUMNS)] = 0
    settings = {"field_penalty": FIELD, "coupling_penalty": COUPLING, "tolerance": 1e-13}

    def check(iterations: int = 200) -> None:
        done: list[int] = []
        model = fit(states, weights, q=Q, fitted=done.append, **settings, iterations=iterations)
        np.testing.assert_allclose(model.fields, fields, atol=2e-5)
        np.testing.assert_allclose(model.couplings, (one_way + one_way.transpose(2, 3, 0, 1)) / 2, atol=2e-5)
        assert sum(done) == COLUMNS

    for at_once, dense in ((1, 5), (3, 5), (16, 5), (16, 100)):  # 30 rows are more than 5 for each column
        monkeypatch.setattr(potts, "COLUMNS_AT_ONCE", at_once)
        monkeypatch.setattr(potts, "DENSE", dense)
        check()
    monkeypatch.setattr(potts, "DIRECTIONS", 3)
    check()


def test_without_couplings_it_is_the_same_model():
    states, weights = toy()

    def fields_alone(fields: np.ndarray) -> float:
        return brute_force(np.concatenate([fields, np.zeros((COLUMNS * Q) ** 2)]), states, weights)

    found = minimize(fields_alone, np.zeros(COLUMNS * Q), method="BFGS", options={"gtol": 1e-6}).x
    model = fit_independent(states, weights, field_penalty=FIELD, q=Q)
    np.testing.assert_allclose(model.fields.flatten(), found, atol=1e-5)
    assert not model.couplings.any()
    expected = -model.fields[torch.arange(COLUMNS), states].sum(dim=1)
    torch.testing.assert_close(model.energies(states), expected)


def test_energies_are_sums_over_columns_and_pairs():
    generator = torch.Generator().manual_seed(2)
    fields = torch.randn(COLUMNS, Q, generator=generator)
    couplings = torch.randn(COLUMNS, Q, COLUMNS, Q, generator=generator)
    couplings = couplings + couplings.permute(2, 3, 0, 1)
    couplings[range(COLUMNS), :, range(COLUMNS)] = 0
    states = torch.tensor(list(itertools.product(range(Q), repeat=COLUMNS)))
    expected = []
    for row in states.tolist():
        energy = -sum(float(fields[i, row[i]]) for i in range(COLUMNS))
        expected.append(
            energy - sum(float(couplings[i, row[i], j, row[j]]) for i, j in itertools.combinations(range(COLUMNS), 2))
        )
    np.testing.assert_allclose(Potts(fields, couplings).energies(states), expected, rtol=1e-5, atol=1e-5)


def test_contacts_are_corrected_norms_among_amino_acids():
    length, q = 5, potts.STATES
    generator = torch.Generator().manual_seed(3)
    couplings = torch.randn(length, q, length, q, generator=generator)
    couplings = couplings + couplings.permute(2, 3, 0, 1)
    couplings[range(length), :, range(length)] = 0
    norm = np.zeros((length, length))
    for i, j in itertools.permutations(range(length), 2):
        block = couplings[i, :, j, :].double().numpy()
        block = block - block.mean(axis=0) - block.mean(axis=1, keepdims=True) + block.mean()
        norm[i, j] = np.sqrt((block[:GAP_STATE, :GAP_STATE] ** 2).sum())
    off = ~np.eye(length, dtype=bool)
    for i, j in itertools.permutations(range(length), 2):
        norm_i, norm_j = norm[i][off[i]].mean(), norm[j][off[j]].mean()
        corrected = norm[i, j] - norm_i * norm_j / norm[off].mean()
        found = Potts(torch.zeros(length, q), couplings).contacts()
        assert float(found[i, j]) == pytest.approx(corrected, abs=1e-4)
        assert found[i, i] == 0


def test_letters_that_are_no_amino_acids_count_as_gaps():
    letters = np.frombuffer(b"ACY-XBU", np.uint8)
    assert states_of(letters).tolist() == [0, 1, 19, *[GAP_STATE] * 4]


def test_the_contacts_of_a_made_up_family_are_found():
    config = SyntheticDataConfig()
    universe = universe_of(config)
    family = int(universe.of(Role.FOLD)[0])
    length = int(universe.length[family])
    residues = members(universe, np.repeat(family, 250), generator_of(config, "alignment"))[:, :length]
    model = fit(torch.from_numpy(states_of(LETTERS[residues])), torch.ones(250), iterations=20)
    touching = contacts(universe.folds[universe.fold[family]].coordinates[:length])
    first, second = most_confident(model.contacts().numpy(), np.ones(length, bool), 6, 5).T
    assert touching[first, second].mean() >= 0.8
