"""Probes that see their features block by block find the optimum that all features at once have."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import optimize, special

from experiments.benchmark import contest, probes
from experiments.benchmark.probes import Learnt, blocks_of
from proteinlm.records.measures import CLASSES


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "BLOCK", 64)
    monkeypatch.setattr(contest, "BLOCK", 64)


def correlated(entries: int, features: int) -> np.ndarray:
    """Features (N, F) float16 with a large mean, one of which is large, one a sum of two others, and one constant."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(entries, features)) @ rng.normal(size=(features, features)) + 5
    found[:, 0] *= 100
    found[:, 1] = found[:, 2] + found[:, 3]
    found[:, 4] = 0.3
    return found.astype(np.float16)


def standardised(train: np.ndarray, asked: np.ndarray) -> np.ndarray:
    spread = train.std(axis=0, dtype=np.float64)
    return (asked - train.mean(axis=0, dtype=np.float64)) / np.where(spread > 1e-6, spread, 1)


def test_a_ridge_is_that_of_the_stacked_equations(monkeypatch: pytest.MonkeyPatch):
    features, rng = correlated(400, 8), np.random.default_rng(1)
    target = features[:, 5].astype(np.float64) + rng.normal(size=400)
    monkeypatch.setattr(probes, "RIDGE", (3.0,))
    train, valid = Learnt(blocks_of(features[:300]), target[:300]), Learnt(blocks_of(features[300:]), target[300:])
    centred = standardised(features[:300], features[:300])
    stacked = np.concatenate([centred, np.sqrt(3.0) * np.eye(8)])
    centre = target[:300].mean()
    weights = np.linalg.lstsq(stacked, np.concatenate([target[:300] - centre, np.zeros(8)]), rcond=None)[0]
    expected = standardised(features[:300], features[300:]) @ weights + centre
    assert probes.ridge(train, valid)(valid.blocks) == pytest.approx(expected, rel=1e-6)


def test_the_penalty_of_a_ridge_is_the_best_on_validation():
    features, rng = correlated(400, 8), np.random.default_rng(2)
    target = features[:, 5].astype(np.float64) + 0.01 * rng.normal(size=400)
    valid = Learnt(blocks_of(features[300:]), target[300:])
    found = probes.ridge(Learnt(blocks_of(features[:300]), target[:300]), valid)(valid.blocks)
    assert np.corrcoef(found, target[300:])[0, 1] > 0.999


@pytest.mark.parametrize(("penalty", "rarity"), [(1e-3, 0.0), (1e-5, 0.0), (1e-3, 8.0)])
def test_a_logistic_regression_is_that_of_another_solver(
    monkeypatch: pytest.MonkeyPatch, penalty: float, rarity: float
):
    features, rng = correlated(500, 12), np.random.default_rng(3)
    scaled = standardised(features, features)
    logits = scaled @ rng.normal(size=(12, 3)) - [0, 0, rarity]
    classes = (logits + 2 * rng.gumbel(size=(500, 3))).argmax(axis=1)
    assert len(set(classes.tolist())) == 3
    own = np.eye(3)[classes]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(13, 3)
        logits = scaled @ weights[:-1] + weights[-1]
        loss = (special.logsumexp(logits, axis=1) - (logits * own).sum(axis=1)).mean()
        residual = (special.softmax(logits, axis=1) - own) / 500
        slope = np.vstack([scaled.T @ residual + 2 * penalty * weights[:-1], residual.sum(axis=0)])
        return float(loss + penalty * (weights[:-1] ** 2).sum()), slope.ravel()

    best = optimize.minimize(objective, np.zeros(39), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    passes = 0

    def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal passes
        passes += 1
        yield from blocks_of(features)()

    monkeypatch.setattr(probes, "LOGISTIC", (penalty,))
    descend, fitted = probes._descend, []
    monkeypatch.setattr(probes, "_descend", lambda *words: fitted.append(descend(*words)) or fitted[-1])
    predicted = probes.logistic(Learnt(counted, classes), Learnt(blocks_of(features), classes), 3)(blocks_of(features))
    (found,) = fitted
    assert objective(found.ravel())[0] == pytest.approx(objective(best)[0], abs=1e-6)
    assert passes < 40
    expected = (scaled @ best.reshape(13, 3)[:-1] + best.reshape(13, 3)[-1]).argmax(axis=1)
    assert (predicted == expected).mean() > 0.99


def test_the_penalty_of_rare_classes_is_chosen_by_the_measure_that_counts(monkeypatch: pytest.MonkeyPatch):
    """One probe finds the commonest class alone and is right more often; the other finds the rare one, with mistakes."""
    classes = np.repeat([1, 0, 0], [10, 12, 78])
    features = np.repeat([[1.0], [1.0], [-1.0]], [10, 12, 78], axis=0)
    learnt = Learnt(blocks_of(features), classes)
    commonest, rare = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 10.0], [1.0, 0.0]])
    fitted = {measure: iter((commonest, rare)) for measure in CLASSES}
    chosen = {}
    for measure, given in fitted.items():
        monkeypatch.setattr(probes, "_descend", lambda *words, given=given: next(given))
        chosen[measure] = probes.logistic(learnt, learnt, 2, measure)(learnt.blocks).sum()
    assert chosen == {"accuracy": 0, "balanced_accuracy": 22, "macro_f1": 22, "mcc": 22}


def test_entries_keep_their_features_whatever_order_these_come_in():
    rng = np.random.default_rng(4)
    sequences = ["A" * int(length) for length in rng.permutation(np.arange(1, 60))]
    sequences.append(sequences[0])  # a protein that comes twice
    features = {each: np.arange(len(each))[:, None] + [0.0, 1000.0 * len(each)] for each in sequences}
    kept = [rng.random(len(each)) < 0.7 for each in sequences]
    owner = np.repeat(np.arange(len(kept)), [own.sum() for own in kept])
    entries = contest.Entries(sequences, kept, owner, np.zeros(len(owner)))
    blocks = entries.blocks(lambda asked: ((each, features[each]) for each in sorted(asked)))
    parts = list(blocks())
    assert max(len(places) for places, _ in parts) < 64 + 60
    found = np.empty((len(owner), 2))
    for places, rows in parts:
        found[places] = rows
    expected = np.concatenate([features[each][own] for each, own in zip(sequences, kept, strict=True)])
    assert np.array_equal(found, expected)
    assert sum(len(places) for places, _ in parts) == len(owner)
