"""An interval covers the truth as often as it says, and the fast bootstrap of Spearman equals the slow one."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from proteinlm.records.bootstrap import (
    Predictions,
    Sample,
    Scores,
    _record_counts,
    bootstrap,
    bootstrap_over,
    paired_bootstrap,
    paired_bootstrap_over,
)


def scores(value: np.ndarray, weight: np.ndarray | None = None) -> Scores:
    records = np.arange(np.shape(value)[-1])
    return Scores(records, value, np.ones(len(records)) if weight is None else weight)


def predictions(prediction: np.ndarray, target: np.ndarray) -> Predictions:
    return Predictions(np.arange(len(target)), prediction, target)


def naive_bootstrap(statistic, records: int, seed: int, resamples: int) -> tuple[float, float]:
    """Percentile interval of `statistic`, a function of the drawn records, each listed as often as it was drawn."""
    draws = [np.repeat(np.arange(records), row) for block in _record_counts(records, resamples, seed) for row in block]
    return tuple(np.quantile([statistic(drawn) for drawn in draws], [0.025, 0.975]))


def coverage(draw_sample, truth: float, trials: int) -> float:
    intervals = [bootstrap(draw_sample(trial), seed=trial, resamples=500) for trial in range(trials)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
def test_spearman_is_scipys_and_its_bootstrap_the_naive_one(tied):
    generator = np.random.default_rng(0)
    target = generator.normal(size=60)
    prediction = target + generator.normal(size=60)
    if tied:
        target, prediction = target.round(), prediction.round()
    sample = predictions(prediction, target)
    assert sample.estimate() == pytest.approx(spearmanr(prediction, target).statistic, abs=1e-14)
    slow = naive_bootstrap(lambda drawn: spearmanr(prediction[drawn], target[drawn]).statistic, 60, 5, 200)
    assert bootstrap(sample, seed=5, resamples=200) == pytest.approx(slow, abs=1e-12)


def test_residue_accuracy_resamples_proteins_not_residues():
    generator = np.random.default_rng(0)
    residues = generator.integers(20, 400, size=50)
    right = generator.binomial(residues, 0.7)
    sample = scores(right / residues, residues)
    assert sample.estimate() == pytest.approx(right.sum() / residues.sum())
    slow = naive_bootstrap(lambda drawn: right[drawn].sum() / residues[drawn].sum(), 50, 1, 300)
    assert bootstrap(sample, seed=1, resamples=300) == pytest.approx(slow, abs=1e-12)


def test_coverage_of_a_mean_of_40_proteins():
    def precisions(trial: int) -> Scores:
        return scores(np.random.default_rng((1, trial)).beta(0.8, 1.6, size=40))

    assert 0.91 <= coverage(precisions, truth=1 / 3, trials=400) <= 0.98


def test_coverage_of_spearman():
    def normal_pairs(trial: int) -> Predictions:
        target, noise = np.random.default_rng((2, trial)).normal(size=(2, 80))
        return predictions(target + noise, target)

    truth = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # of a bivariate normal with Pearson's correlation sqrt(1/2)
    assert 0.9 <= coverage(normal_pairs, truth, trials=120) <= 0.99


def test_three_seeds_widen_the_interval_to_cover_the_next_seed():
    def three_runs(trial: int, seeds: int = 3) -> Scores:
        generator = np.random.default_rng((3, trial))
        of_seed, of_protein = generator.normal(0, 0.1, (seeds, 1)), generator.normal(0, 0.3, 40)
        return scores(of_seed + of_protein + generator.normal(0, 0.1, (seeds, 40)))

    def first_run_alone(trial: int) -> Scores:
        return scores(three_runs(trial).value[0])

    assert coverage(first_run_alone, truth=0.0, trials=200) < 0.8  # blind to the seed it holds fixed
    assert coverage(three_runs, truth=0.0, trials=200) > 0.85


def test_one_less_than_all_are_drawn():
    one_of_four = np.array([0.0, 0.0, 0.0, 1.0])  # three draws give 2/3 as the 97.5th percentile, four would give 3/4
    assert bootstrap(scores(one_of_four)).high == pytest.approx(2 / 3)
    assert bootstrap(scores(np.repeat(one_of_four[:, None], 9, axis=1))).high == pytest.approx(2 / 3)


def test_the_seed_alone_decides():
    generator = np.random.default_rng(0)
    samples: list[Sample] = [scores(generator.random((3, 30))), predictions(*generator.random((2, 30)))]
    for sample in samples:
        assert bootstrap(sample, seed=1) == bootstrap(sample, seed=1) != bootstrap(sample, seed=2)
    one, other = samples[0], scores(generator.random((2, 30)))
    assert paired_bootstrap(one, other, seed=1) == paired_bootstrap(one, other, seed=1)


def test_pairing_sees_a_difference_that_the_spread_of_proteins_hides():
    generator = np.random.default_rng(0)
    protein = generator.random(40)
    better, worse = scores(protein + 0.02 + generator.normal(0, 0.01, 40)), scores(protein)
    assert bootstrap(better).low < bootstrap(worse).high  # apart, the intervals overlap
    difference = paired_bootstrap(better, worse)
    assert 0 < difference.low < difference.value < difference.high < 0.04
    assert difference.p_value == 2 / 1001
    assert paired_bootstrap(worse, better).value == -difference.value
    assert paired_bootstrap(worse, worse).p_value == 1


def test_the_p_value_of_no_difference_is_uniform():
    p_values = []
    for trial in range(200):
        generator = np.random.default_rng((4, trial))
        target, first, second = generator.normal(size=(3, 50))
        p_values.append(paired_bootstrap(scores(target + first), scores(target + second), resamples=200).p_value)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.11
    assert 0.4 <= np.mean(p_values) <= 0.6


def test_paired_spearman_is_the_difference_of_two_naive_bootstraps():
    target, *noise = np.random.default_rng(0).normal(size=(3, 40))
    first, second = target + noise[0], target + 2 * noise[1]
    slow = naive_bootstrap(
        lambda drawn: spearmanr(first[drawn], target[drawn])[0] - spearmanr(second[drawn], target[drawn])[0], 40, 0, 200
    )
    difference = paired_bootstrap(predictions(first, target), predictions(second, target), resamples=200)
    assert (difference.low, difference.high) == pytest.approx(slow, abs=1e-12)


def test_seeds_are_averaged_and_must_agree_on_the_records():
    runs = [Scores(np.array([2, 0, 1]), np.array([1.0, 0.0, run]), np.ones(3)) for run in (0.0, 1.0)]
    joined = Scores.over_seeds(runs)
    assert (joined.seeds, joined.n, joined.estimate()) == (2, 3, 0.5)
    assert joined.record.tolist() == [0, 1, 2]
    assert joined.value.tolist() == [[0, 0, 1], [0, 1, 1]]
    with pytest.raises(ValueError, match="record"):
        Scores.over_seeds([runs[0], Scores(np.array([0, 1, 3]), np.zeros(3), np.ones(3))])
    with pytest.raises(ValueError, match="target"):
        Predictions.over_seeds([predictions(np.zeros(2), np.array([0, run])) for run in (1, 2)])
    with pytest.raises(ValueError, match="same records"):
        paired_bootstrap(joined, scores(np.zeros(4)))


def test_a_run_of_one_seed_joins_to_itself():
    run, other = scores(np.array([1.0, 0.0, 0.5])), predictions(np.array([1.0, 3.0, 2.0]), np.arange(3))
    assert Scores.over_seeds([run]).estimate() == run.estimate() == 0.5
    assert Predictions.over_seeds([other]).estimate() == other.estimate() == 0.5


def test_squared_errors_are_kept_for_each_protein_and_seed():
    errors = predictions(np.array([[1.0, 3.0, -2.0], [0.0, 1.0, 2.0]]), np.array([0.0, 1.0, 2.0])).squared_errors()
    assert errors.value.tolist() == [[1, 4, 16], [0, 0, 0]]
    assert errors.estimate() == 3.5


def test_the_seeds_of_each_side_are_drawn_by_themselves():
    by_seed = scores(np.repeat([[0.0], [1.0], [2.0]], 5, axis=1))  # alike on all records, so that only seeds differ
    difference = paired_bootstrap(by_seed, by_seed)
    assert difference.low < difference.value == 0 < difference.high


def test_two_records_are_enough_for_an_interval():
    two, none = scores(np.array([0.0, 1.0])), scores(np.zeros(2))
    assert bootstrap(two) == (0, 1)  # each resample draws one of them
    assert paired_bootstrap(two, none)[:3] == (0.5, 0, 1)


def test_a_record_is_scored_once_and_one_without_weight_is_listed():
    with pytest.raises(ValueError, match="record 7 was scored twice"):
        Scores(np.array([7, 3, 7]), np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match=r"value has shape \(1, 2\) for 3 records"):
        Scores(np.arange(3), np.zeros(2), np.ones(3))
    sample = scores(np.array([1.0, np.nan, 0.0]), np.array([1.0, 0.0, 1.0]))
    assert (sample.n, sample.uncounted.tolist(), sample.estimate()) == (2, [1], 0.5)


def test_what_cannot_be_said_is_nan():
    none, one = scores(np.zeros(0)), scores(np.ones(1))
    assert np.isnan(none.estimate())
    assert one.estimate() == 1
    assert all(np.isnan(bound) for sample in (none, one) for bound in bootstrap(sample))
    assert np.isnan(paired_bootstrap(one, one).p_value)
    diverged = predictions(np.array([0.0, np.nan, 1.0]), np.arange(3))
    assert np.isnan(diverged.estimate())
    assert np.isnan(bootstrap(diverged)).all()
    assert predictions(np.zeros(5), np.arange(5)).estimate() == 0  # a constant ranks nothing
    equal = predictions(np.arange(5), np.full(5, 2.5))
    assert np.isnan(equal.estimate())
    assert np.isnan(bootstrap(equal)).all()
    assert np.isnan(paired_bootstrap(equal, equal).value)
    assert equal.squared_errors().estimate() == pytest.approx(np.mean((np.arange(5) - 2.5) ** 2))
    drawn = predictions(np.arange(4), np.array([0.0, 1, 1, 1]))  # some resamples have equal targets, and count as 0
    assert np.isfinite([drawn.estimate(), *bootstrap(drawn)]).all()


def test_the_largest_test_set():
    target, noise = np.random.default_rng(0).normal(size=(2, 27_217))
    interval = bootstrap(predictions(target + noise, target))
    assert 0.66 < interval.low < 0.68 < interval.high < 0.71


def test_the_interval_over_universes_has_the_variance_of_their_mean():
    """Scores vary by 0.3 between universes, and by 1 between the 30 records of each, which are counted once or twice."""
    generator = np.random.default_rng(0)
    squares = []
    for _ in range(300):
        samples = [scores(generator.normal(generator.normal(0, 0.3), 1, 30)) for _ in range(3)]
        low, high = bootstrap_over(samples, resamples=100)
        squares.append(((high - low) / (2 * 1.96)) ** 2)
    of_mean = (0.3**2 + 1 / 30) / 3
    assert of_mean < np.mean(squares) < of_mean + 2 / 3 / 30


def test_one_universe_is_what_it_is_by_itself():
    generator = np.random.default_rng(1)
    first, second = (scores(generator.random((2, 40))) for _ in range(2))
    assert bootstrap_over([first]) == bootstrap(first)
    assert paired_bootstrap_over([(first, second)]) == paired_bootstrap(first, second)
    twice = paired_bootstrap_over([(first, second), (second, first)])
    assert twice.value == pytest.approx(0)
    assert twice.low < 0 < twice.high
