"""How sure a score is: bootstrap intervals and paired comparisons, over proteins and over fine-tuning seeds.

A score is computed from one entry per record, kept in a `Sample`: `Scores` for weighted means (accuracy, contact
precision, squared error), `Predictions` for Spearman's rank correlation. Both say what the score would be had each
record been drawn a given number of times; everything else follows. Imports neither torch nor scipy.

n records, S seeds, R resamples, G groups of tied values.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
BLOCK = 2**17  # draws held at once; larger blocks leave the cache


class Interval(NamedTuple):
    """95 % of the bootstrap distribution; (nan, nan) where fewer than two records are scored or the score is undefined."""

    low: float
    high: float


class Difference(NamedTuple):
    """A score minus another on the same records, its interval, and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


class Sample(ABC):
    """Entries of n records, fixed in ascending order of record number, and the score computed from them."""

    record: np.ndarray
    """Record numbers, (n,) int64, each once."""

    @property
    @abstractmethod
    def counted(self) -> np.ndarray:
        """Which of the records take part in the score, (n,) bool."""

    @property
    @abstractmethod
    def seeds(self) -> int:
        """Number of fine-tuning seeds S."""

    @abstractmethod
    def evaluate(self, counts: np.ndarray) -> np.ndarray:
        """Score of each seed, (R, S) float64, had the scored records been drawn `counts` (R, n) times."""

    @abstractmethod
    def only(self, kept: np.ndarray) -> "Sample":
        """The entries of `kept` (n,) bool alone."""

    @property
    def n(self) -> int:
        """Number of records that take part in the score."""
        return int(np.count_nonzero(self.counted))

    @property
    def uncounted(self) -> np.ndarray:
        """Numbers of the records that offer nothing to score, such as a protein too short to have a pair."""
        return self.record[~self.counted]

    def estimate(self) -> float:
        """The score: the mean over seeds, each on all scored records; nan where there are none."""
        return float(self.evaluate(np.ones((1, self.n), np.int64)).mean()) if self.n else float("nan")


@dataclass(frozen=True, eq=False)
class Scores(Sample):
    """A weighted mean: ``sum(weight * value) / sum(weight)``.

    With weight 1 it is the mean over proteins; with ``value = correct / residues`` and ``weight = residues`` it is the
    share of all residues that are right, while proteins stay the unit that is resampled. Weight 0 leaves a record out.
    """

    record: np.ndarray  # (n,)
    value: np.ndarray  # (S, n); (n,) for one seed
    weight: np.ndarray  # (n,)

    def __post_init__(self) -> None:
        _arrange(self, value=np.atleast_2d(self.value), weight=self.weight)

    @classmethod
    def over_seeds(cls, runs: "Sequence[Self]") -> "Self":
        """Join runs that differ in the seed of fine-tuning; they must hold the same records and weights."""
        _require_same(runs, "record", "weight")
        return cls(runs[0].record, np.concatenate([run.value for run in runs]), runs[0].weight)

    def only(self, kept: np.ndarray) -> "Scores":
        return Scores(self.record[kept], self.value[:, kept], self.weight[kept])

    @property
    def counted(self) -> np.ndarray:
        return self.weight > 0

    @property
    def seeds(self) -> int:
        return len(self.value)

    def evaluate(self, counts: np.ndarray) -> np.ndarray:
        weight = self.weight[self.counted]
        total = counts @ (self.value[:, self.counted] * weight).T  # (R, S)
        return total / (counts @ weight)[:, None]


@dataclass(frozen=True, eq=False)
class Predictions(Sample):
    """Spearman's rank correlation of predictions and targets, ties sharing their mean rank (as scipy's ``spearmanr``).

    Where all targets are equal, the score is undefined: nan, whatever is predicted. A model that predicts a constant ranks
    nothing and scores 0, where scipy says nan: it is a bad model, and its score must count among those of other seeds. The
    same holds of a resample that happens to draw equal targets. A prediction that is not a number makes the score nan.
    """

    record: np.ndarray  # (n,)
    prediction: np.ndarray  # (S, n); (n,) for one seed
    target: np.ndarray  # (n,)

    def __post_init__(self) -> None:
        _arrange(self, prediction=np.atleast_2d(self.prediction), target=self.target)

    @classmethod
    def over_seeds(cls, runs: "Sequence[Self]") -> "Self":
        """Join runs that differ in the seed of fine-tuning; they must hold the same records and targets."""
        _require_same(runs, "record", "target")
        return cls(runs[0].record, np.concatenate([run.prediction for run in runs]), runs[0].target)

    def only(self, kept: np.ndarray) -> "Predictions":
        return Predictions(self.record[kept], self.prediction[:, kept], self.target[kept])

    @property
    def counted(self) -> np.ndarray:
        return np.ones(len(self.record), bool)

    @property
    def seeds(self) -> int:
        return len(self.prediction)

    def squared_errors(self) -> Scores:
        return Scores(self.record, (self.prediction - self.target) ** 2, np.ones(len(self.record)))

    @cached_property
    def _order(self) -> "tuple[_Order, list[_Order]]":
        return _order(self.target), [_order(prediction) for prediction in self.prediction]

    def evaluate(self, counts: np.ndarray) -> np.ndarray:
        of_target, of_predictions = self._order
        scores = np.empty((len(counts), self.seeds))
        for row, drawn in enumerate(counts):  # numpy gathers from one row three times as fast as from a block of them
            target = _centred_ranks(of_target, drawn)
            weight = drawn.astype(np.float64)
            scores[row] = [_correlation(_centred_ranks(order, drawn), target, weight) for order in of_predictions]
        scores[:, ~np.isfinite(self.prediction).all(axis=1)] = np.nan
        if len(of_target.edges) < 3:  # a single group of ties
            scores[:] = np.nan
        return scores


def bootstrap(sample: Sample, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The 95 % percentile interval of a score, resampling its records and, where there are several, its seeds.

    Each resample draws n - 1 of the n records and S - 1 of the S seeds, with replacement: n - 1 makes the variance of a
    mean its unbiased estimate (Rao and Wu 1988), which matters for two or three seeds. One seed is held fixed; the
    interval then says nothing about another. Every seed meets the same records. The same `seed` gives the same
    interval, and the same draws for any two samples of n records.

    Percentile rather than BCa: for the mean of 40 skewed precisions, as many as ProteinNet's test set has, nominal 95 %
    covers 94.2 % against 94.9 %, and BCa's jackknife of Spearman would rank 27,217 records 27,217 times.
    """
    return bootstrap_over([sample], seed=seed, resamples=resamples)


def bootstrap_over(samples: Sequence[Sample], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The interval of the mean score over universes, each of which has a sample.

    Universes are resampled as seeds are, one fewer than there are, and within each its records and seeds as by
    `bootstrap`. What records add to the spread between universes is counted once more within them, so the interval of two
    or three is rather too wide than too narrow. One universe is held fixed.
    """
    if min(sample.n for sample in samples) < 2:
        return Interval(float("nan"), float("nan"))
    found = [_scores(sample, seed + number, resamples) for number, sample in enumerate(samples)]
    return _percentiles((np.stack(found, axis=1) * _seed_weights(len(samples), resamples, seed, stream=3)).sum(axis=1))


def paired_bootstrap(first: Sample, second: Sample, *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Score of `first` minus score of `second`, resampling the same records for both and the seeds of each by itself.

    The p-value is twice the smaller share of resampled differences on one side of zero, itself counted in (Davison and
    Hinkley 1997, section 4.2): never below ``2 / (resamples + 1)``.
    """
    return paired_bootstrap_over([(first, second)], seed=seed, resamples=resamples)


def paired_bootstrap_over(
    pairs: Sequence[tuple[Sample, Sample]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """The mean difference over universes, each of which has a pair; resamples them as `bootstrap_over` does."""
    if not all(np.array_equal(first.record[first.counted], second.record[second.counted]) for first, second in pairs):
        raise ValueError("a paired comparison needs the same records on both sides")
    value = sum(first.estimate() - second.estimate() for first, second in pairs) / len(pairs)
    undefined = Difference(value, float("nan"), float("nan"), float("nan"))
    if min(first.n for first, _ in pairs) < 2:
        return undefined
    found = [
        _scores(first, seed + number, resamples) - _scores(second, seed + number, resamples, stream=2)
        for number, (first, second) in enumerate(pairs)
    ]
    differences = (np.stack(found, axis=1) * _seed_weights(len(pairs), resamples, seed, stream=3)).sum(axis=1)
    if not np.isfinite(differences).all():
        return undefined
    beyond = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return Difference(value, *_percentiles(differences), min(1.0, 2 * (beyond + 1) / (resamples + 1)))


def _scores(sample: Sample, seed: int, resamples: int, stream: int = 1) -> np.ndarray:
    """Of each resample, (R,): the mean over the seeds that it drew."""
    weights = _seed_weights(sample.seeds, resamples, seed, stream)
    scores = np.concatenate([sample.evaluate(counts) for counts in _record_counts(sample.n, resamples, seed)])
    return (scores * weights).sum(axis=1)


def _percentiles(scores: np.ndarray) -> Interval:
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _record_counts(records: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n records is drawn, in blocks (R', n) int64 of the resamples."""
    generator = np.random.default_rng((seed, 0))
    block = max(1, BLOCK // records)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = generator.integers(records, size=(rows, records - 1)) + np.arange(rows)[:, None] * records
        yield np.bincount(drawn.ravel(), minlength=rows * records).reshape(rows, records)


def _seed_weights(seeds: int, resamples: int, seed: int, stream: int) -> np.ndarray:
    """Share of each seed in each resample, (R, S)."""
    if seeds == 1:
        return np.ones((resamples, 1))
    generator = np.random.default_rng((seed, stream))
    return generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=resamples) / (seeds - 1)


class _Order(NamedTuple):
    """How values are ranked: resampling changes the ranks but not the order."""

    ascending: np.ndarray  # (n,) the permutation that sorts
    edges: np.ndarray  # (G + 1,) where each group of ties begins in it
    group: np.ndarray  # (n,) the group of each value


def _order(values: np.ndarray) -> _Order:
    ascending = np.argsort(values, kind="stable")
    begins = np.ones(len(values), bool)
    begins[1:] = np.diff(values[ascending]) != 0
    group = np.empty(len(values), np.int64)
    group[ascending] = np.cumsum(begins) - 1
    return _Order(ascending, np.append(np.flatnonzero(begins), len(values)), group)


def _centred_ranks(order: _Order, counts: np.ndarray) -> np.ndarray:
    """Twice the mid-rank of every value among the drawn ones, less its mean: (n,) from `counts` (n,).

    A group of ties that has `a` drawn values below it and ends at `b` has the mid-rank ``(a + b + 1) / 2``. The mean of
    ``a + b`` over all N drawn values is N, so the difference is an exact integer.
    """
    below = np.concatenate(([0], np.cumsum(counts[order.ascending])))[order.edges]  # (G + 1,)
    return (below[:-1] + below[1:] - below[-1])[order.group].astype(np.float64)


def _correlation(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Pearson's correlation of centred values (n,) with weights (n,); 0 where either side is constant."""
    weighted = first * weight
    variances = (weighted @ first) * (second * second @ weight)
    return float(weighted @ second / np.sqrt(variances)) if variances > 0 else 0.0


def _arrange(sample: Sample, **columns: np.ndarray) -> None:
    """Put the entries in ascending order of their records, which must be unlike each other."""
    record = np.asarray(sample.record, np.int64)
    for name, column in columns.items():
        if column.shape[-1:] != record.shape:
            raise ValueError(f"{name} has shape {column.shape} for {len(record)} records")
    ascending = np.argsort(record, kind="stable")
    object.__setattr__(sample, "record", record[ascending])
    for name, column in columns.items():
        object.__setattr__(sample, name, np.asarray(column, np.float64)[..., ascending])
    twice = np.flatnonzero(np.diff(sample.record) == 0)
    if len(twice):
        raise ValueError(f"record {sample.record[twice[0]]} was scored twice")


def _require_same(runs: "Sequence[Sample]", *columns: str) -> None:
    for name in columns:
        if not all(np.array_equal(getattr(runs[0], name), getattr(run, name)) for run in runs):
            raise ValueError(f"seeds of one task differ in {name}")
