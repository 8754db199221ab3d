"""The measures of benchmarks are those of scipy and scikit-learn, and say when they are undefined."""

import numpy as np
import pytest
from scipy import stats

from proteinlm.records import measures
from proteinlm.records.bootstrap import Predictions, Scores, bootstrap, paired_bootstrap
from proteinlm.records.measures import Measured, Tallies

TARGET = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 0], dtype=np.float64)
PREDICTION = np.array([0.1, 0.4, 0.35, 0.8, 0.8, 0.3, 0.3, 0.9, 0.05, 0.35])


def plain_auc(prediction, target):
    """By definition: how often a positive is above a negative, a tie being half."""
    pairs = [(p, n) for p in prediction[target > 0] for n in prediction[target == 0]]
    return np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])


def plain_average_precision(prediction, target):
    """By definition: over thresholds from the highest, precision times the gain in recall."""
    total, before = 0.0, 0
    for threshold in sorted(set(prediction), reverse=True):
        taken = target[prediction >= threshold]
        total += taken.mean() * (taken.sum() - before)
        before = taken.sum()
    return total / target.sum()


def test_ranks_and_correlations_are_scipys():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=50).round(1), rng.normal(size=50).round(1)
    assert measures.mid_ranks(target) == pytest.approx(stats.rankdata(target))
    assert measures.spearman(prediction, target) == pytest.approx(stats.spearmanr(prediction, target)[0])
    assert measures.pearson(prediction, target) == pytest.approx(stats.pearsonr(prediction, target)[0])


def test_areas_are_what_they_are_defined_as():
    rng = np.random.default_rng(1)
    for prediction, target in ((PREDICTION, TARGET), (rng.normal(size=60).round(1), (rng.random(60) < 0.3) * 1.0)):
        assert measures.auc(prediction, target) == pytest.approx(plain_auc(prediction, target))
        assert measures.average_precision(prediction, target) == pytest.approx(
            plain_average_precision(prediction, target)
        )
    likelihoods = PREDICTION - 500.0  # a sigmoid of these is zero
    assert measures.auc(likelihoods, TARGET) == pytest.approx(plain_auc(PREDICTION, TARGET))
    assert measures.average_precision(likelihoods, TARGET) == pytest.approx(plain_average_precision(PREDICTION, TARGET))


def tallied(confusion: np.ndarray) -> np.ndarray:
    """The tallies (R, 3, C) of confusions (R, C, C), target by prediction."""
    return np.stack([np.einsum("rcc->rc", confusion), confusion.sum(axis=2), confusion.sum(axis=1)], axis=1)


def test_scikit_learn_says_the_same():
    """Where it is installed: the suite does not need it."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    target, prediction = rng.integers(4, size=200), rng.integers(4, size=200)
    tally = tallied(sklearn.confusion_matrix(target, prediction)[None])
    assert measures.accuracy(tally)[0] == pytest.approx(sklearn.accuracy_score(target, prediction))
    assert measures.balanced_accuracy(tally)[0] == pytest.approx(sklearn.balanced_accuracy_score(target, prediction))
    assert measures.macro_f1(tally)[0] == pytest.approx(sklearn.f1_score(target, prediction, average="macro"))
    assert measures.matthews(tally)[0] == pytest.approx(sklearn.matthews_corrcoef(target, prediction))
    flags, score = (rng.random(200) < 0.2) * 1, rng.normal(size=200).round(1)
    assert measures.auc(score, flags) == pytest.approx(sklearn.roc_auc_score(flags, score))
    assert measures.average_precision(score, flags) == pytest.approx(sklearn.average_precision_score(flags, score))
    assert measures.median_mcc(score, flags) == pytest.approx(
        sklearn.matthews_corrcoef(flags, score >= np.median(score))
    )


def test_scores_of_classes_by_hand():
    tally = tallied(np.array([[[3, 1, 0], [1, 2, 0], [0, 1, 2]]]))
    assert measures.accuracy(tally)[0] == pytest.approx(7 / 10)
    assert measures.balanced_accuracy(tally)[0] == pytest.approx((3 / 4 + 2 / 3 + 2 / 3) / 3)
    assert measures.macro_f1(tally)[0] == pytest.approx((6 / 8 + 4 / 7 + 4 / 5) / 3)
    both = tallied(np.array([[[6, 2], [1, 3]]]))
    assert measures.matthews(both)[0] == pytest.approx((6 * 3 - 2 * 1) / np.sqrt(8 * 4 * 7 * 5))
    absent = tallied(np.array([[[2, 0, 0], [1, 1, 0], [0, 0, 0]]]))  # the last class counts nowhere
    assert measures.balanced_accuracy(absent)[0] == pytest.approx(0.75)
    assert measures.macro_f1(absent)[0] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_proteingyms_ndcg_and_top_recall_by_hand():
    target = np.arange(30.0)
    prediction = np.zeros(30)
    prediction[[29, 5, 27]] = 3, 2, 1  # of the best three, two are among the true three
    ideal = 1 + (28 / 29) / np.log2(3) + (27 / 29) / 2
    assert measures.ndcg(prediction, target) == pytest.approx((1 + (5 / 29) / np.log2(3) + (27 / 29) / 2) / ideal)
    assert measures.top_recall(prediction, target) == pytest.approx(2 / 3)
    assert measures.ndcg(target, target) == measures.top_recall(target, target) == 1


def test_what_is_undefined_is_nan_and_a_constant_prediction_scores_nothing():
    same, varied = np.ones(20), np.arange(20.0)
    for measure in (measures.spearman, measures.pearson, measures.auc, measures.ndcg, measures.top_recall):
        assert np.isnan(measure(varied, same)), measure
    assert np.isnan(measures.average_precision(varied, np.zeros(20)))
    assert measures.spearman(same, varied) == measures.pearson(same, varied) == 0
    assert np.isnan(measures.ndcg(same, varied))
    assert np.isnan(measures.matthews(tallied(np.array([[[3, 1], [0, 0]]])))[0])
    assert measures.matthews(tallied(np.array([[[3, 0], [2, 0]]])))[0] == 0
    assert np.isnan(measures.accuracy(np.zeros((1, 3, 2)))[0])


def test_a_sample_of_entries_agrees_with_the_sample_of_proteins():
    rng = np.random.default_rng(3)
    record, target = np.arange(40), rng.normal(size=40)
    prediction = target + rng.normal(size=40)
    known = Predictions(record, prediction, target)
    ours = Measured(record, record, prediction, target, measures.spearman)
    assert ours.estimate() == pytest.approx(known.estimate())
    assert bootstrap(ours, resamples=50) == pytest.approx(bootstrap(known, resamples=50))
    difference = paired_bootstrap(ours, Measured(record, record, target, target, measures.spearman), resamples=50)
    assert difference.value == pytest.approx(known.estimate() - 1)
    assert difference.high < 0


def test_a_drawn_protein_brings_all_its_residues():
    owner, target = np.array([0, 0, 0, 2]), np.array([1.0, 2, 4, 8])
    sample = Measured(np.array([3, 5, 9]), owner, target * 0, target, lambda prediction, target: float(target.sum()))
    assert sample.counted.tolist() == [True, False, True]  # the second has no residue with a label
    assert sample.uncounted.tolist() == [5]
    assert sample.evaluate(np.array([[1, 1], [2, 0], [0, 3]])).ravel().tolist() == [15, 14, 24]
    assert sample.only(np.array([False, True, True])).evaluate(np.array([[1]])).item() == 8


def test_tallies_agree_with_the_share_that_is_right():
    rng = np.random.default_rng(4)
    owner = np.sort(rng.integers(12, size=300))
    target, prediction = rng.integers(3, size=300), rng.integers(3, size=300)
    record = np.arange(12)
    residues = np.bincount(owner, minlength=12)
    right = np.bincount(owner, weights=target == prediction, minlength=12)
    known = Scores(record, right / np.maximum(residues, 1), residues)
    ours = Tallies.of(record, owner, prediction, target, 3, measures.accuracy)
    assert ours.estimate() == pytest.approx(known.estimate())
    assert bootstrap(ours, resamples=50) == pytest.approx(bootstrap(known, resamples=50))


def test_tallies_of_all_folds_of_remote_homology_fit_into_memory():
    rng = np.random.default_rng(5)
    record, target, prediction = np.arange(718), rng.integers(1195, size=718), rng.integers(1195, size=718)
    prediction[:200] = target[:200]
    ours = Tallies.of(record, record, prediction, target, 1195, measures.accuracy)
    assert ours.tally.nbytes < 50e6
    assert ours.estimate() == pytest.approx((prediction == target).mean())
    assert ours.only(record < 200).estimate() == 1


def test_a_prediction_that_is_no_number_has_no_score():
    record = np.arange(5)
    prediction = np.array([1.0, 2, np.nan, 4, 5])
    assert np.isnan(Measured(record, record, prediction, np.arange(5.0), measures.spearman).estimate())
