"""The field's measures of predictions against targets, and samples of them whose proteins can be drawn again.

What is undefined is nan: a correlation where all targets are equal, an area where one class is missing. A prediction that
is constant ranks nothing: its correlations are 0, where the targets differ. Imports neither torch nor scipy.

E entries (proteins, or residues of proteins), n records (proteins), S seeds, R resamples, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from proteinlm.records.bootstrap import Sample

TOP = 10
"""The percentage of the variants that ProteinGym's NDCG and top recall look at."""


def mid_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (E,) float64 from 1; ties share their mean."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[group]


def pearson(prediction: np.ndarray, target: np.ndarray) -> float:
    """Pearson's correlation."""
    if len(target) < 2 or np.ptp(target) == 0:
        return float("nan")
    first, second = prediction - prediction.mean(), target - target.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if np.ptp(prediction) > 0 and norm > 0 else 0.0


def spearman(prediction: np.ndarray, target: np.ndarray) -> float:
    """Spearman's rank correlation, ties sharing their mean rank."""
    return pearson(mid_ranks(prediction), mid_ranks(target))


def rmse(prediction: np.ndarray, target: np.ndarray) -> float:
    """The root of the mean squared error, in the unit of the targets."""
    return float(np.sqrt(np.mean((prediction - target) ** 2))) if len(target) else float("nan")


def auc(prediction: np.ndarray, target: np.ndarray) -> float:
    """The area under the receiver operating characteristic of the targets that are 1 against those that are 0."""
    positive = target > 0
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    return float((mid_ranks(prediction)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def average_precision(prediction: np.ndarray, target: np.ndarray) -> float:
    """The mean precision at each target that is 1, without interpolation; tied predictions are taken at once."""
    positive = target > 0
    if not positive.any():
        return float("nan")
    order = np.argsort(-prediction, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(prediction[order])), len(order) - 1)  # of each group of ties
    hits = np.cumsum(positive[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def ndcg(prediction: np.ndarray, target: np.ndarray) -> float:
    """ProteinGym's normalised discounted cumulative gain of the best tenth by prediction.

    Gains are the targets on a scale from 0 to 1. Ties keep the order of the entries, as a stable sort leaves them; the
    published code takes what numpy's unstable sort gives, so a coarse score differs there. Of a constant prediction it is
    undefined.
    """
    best = len(target) * TOP // 100
    if not best or np.ptp(target) == 0 or np.ptp(prediction) == 0:
        return float("nan")
    gains = (target - target.min()) / np.ptp(target)
    discounts = 1 / np.log2(np.arange(best) + 2)
    ideal = np.sort(gains)[::-1][:best]
    return float(gains[np.argsort(-prediction, kind="stable")[:best]] @ discounts / (ideal @ discounts))


def top_recall(prediction: np.ndarray, target: np.ndarray) -> float:
    """ProteinGym's share of the best tenth by target that is in the best tenth by prediction.

    Best is above the 90th percentile, which excludes ties with it: where nothing is above, it is undefined.
    """
    if not len(target):
        return float("nan")
    top = target > np.percentile(target, 100 - TOP)
    chosen = prediction > np.percentile(prediction, 100 - TOP)
    return float((top & chosen).sum() / top.sum()) if top.any() else float("nan")


def median_mcc(prediction: np.ndarray, target: np.ndarray) -> float:
    """ProteinGym's Matthews correlation of targets 0 and 1 with predictions that are at least their median."""
    if not len(target):
        return float("nan")
    chosen, positive = (prediction >= np.median(prediction)) * 1, (target > 0) * 1
    tally = [np.bincount(part, minlength=2) for part in (positive[positive == chosen], positive, chosen)]
    return float(matthews(np.array([tally]))[0])


Measure = Callable[[np.ndarray, np.ndarray], float]
"""From predictions (E,) and targets (E,) to a score; nan where it is undefined."""
NUMBERS: dict[str, Measure] = {"spearman": spearman, "pearson": pearson, "rmse": rmse}
"""Of numbers."""
RANKINGS: dict[str, Measure] = {"ndcg": ndcg, "top_recall": top_recall}
"""Of numbers of which the highest are sought."""
FLAGS: dict[str, Measure] = {"auc": auc, "average_precision": average_precision, "mcc": median_mcc}
"""Of numbers that rank targets 0 and 1."""


def balanced_accuracy(tally: np.ndarray) -> np.ndarray:
    """The mean recall (R,) of the classes that occur in tallies (R, 3, C)."""
    right, targets, _ = _parts(tally)
    recall = np.divide(right, targets, out=np.zeros(targets.shape), where=targets > 0)
    return _ratio(recall.sum(axis=1), (targets > 0).sum(axis=1))


def macro_f1(tally: np.ndarray) -> np.ndarray:
    """The mean F1 (R,) of the classes that occur as a target or a prediction, in tallies (R, 3, C)."""
    right, targets, predictions = _parts(tally)
    both = targets + predictions
    f1 = np.divide(2 * right, both, out=np.zeros(both.shape), where=both > 0)
    return _ratio(f1.sum(axis=1), (both > 0).sum(axis=1))


def matthews(tally: np.ndarray) -> np.ndarray:
    """Matthews' correlation (R,) of tallies (R, 3, C), for any number of classes (Gorodkin 2004).

    It is undefined where all targets are of one class, and 0 where all predictions are.
    """
    right, targets, predictions = _parts(tally)
    total = targets.sum(axis=1)
    covariance = right.sum(axis=1) * total - (targets * predictions).sum(axis=1)
    of_targets, of_predictions = (total**2 - (marginal**2).sum(axis=1) for marginal in (targets, predictions))
    score = np.divide(
        covariance,
        np.sqrt(of_targets * of_predictions),
        out=np.zeros(len(tally)),
        where=(of_targets > 0) & (of_predictions > 0),
    )
    return np.where(of_targets > 0, score, np.nan)


def accuracy(tally: np.ndarray) -> np.ndarray:
    """The share (R,) that is right, in tallies (R, 3, C)."""
    right, targets, _ = _parts(tally)
    return _ratio(right.sum(axis=1), targets.sum(axis=1))


CLASSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "mcc": matthews,
}
"""Of classes."""


@dataclass(frozen=True, eq=False)
class Measured(Sample):
    """Any `Measure`, of entries that belong to proteins; a protein that is drawn brings all its entries."""

    record: np.ndarray
    owner: np.ndarray
    """The place in `record` of each entry's protein, (E,)."""
    prediction: np.ndarray
    """(S, E); (E,) for one seed."""
    target: np.ndarray
    """(E,)"""
    measure: Measure

    def __post_init__(self) -> None:
        _check(self.record, self.owner, self.target)
        object.__setattr__(self, "prediction", np.atleast_2d(self.prediction))

    @classmethod
    def over_seeds(cls, runs: "Sequence[Measured]") -> "Measured":
        """Join runs that differ in the seed of fine-tuning; they must hold the same entries."""
        first = runs[0]
        for run in runs:
            if not all(
                np.array_equal(getattr(first, name), getattr(run, name)) for name in ("record", "owner", "target")
            ):
                raise ValueError("seeds of one task differ in their entries")
        return cls(
            first.record, first.owner, np.concatenate([run.prediction for run in runs]), first.target, first.measure
        )

    @property
    def counted(self) -> np.ndarray:
        return np.bincount(self.owner, minlength=len(self.record)) > 0

    @property
    def seeds(self) -> int:
        return len(self.prediction)

    def only(self, kept: np.ndarray) -> "Measured":
        entries = kept[self.owner]
        renumbered = (np.cumsum(kept) - 1)[self.owner[entries]]
        return Measured(self.record[kept], renumbered, self.prediction[:, entries], self.target[entries], self.measure)

    def evaluate(self, counts: np.ndarray) -> np.ndarray:
        place = (np.cumsum(self.counted) - 1)[self.owner]
        scores = np.empty((len(counts), self.seeds))
        finite = np.isfinite(self.prediction).all(axis=1)
        for row, drawn in enumerate(counts):
            entries = np.repeat(np.arange(len(place)), drawn[place])
            target = self.target[entries]
            scores[row] = [self.measure(each[entries], target) for each in self.prediction]
        scores[:, ~finite] = np.nan
        return scores


@dataclass(frozen=True, eq=False)
class Tallies(Sample):
    """A score of `CLASSES`, from what each protein has of each class: entries that are right, are targets, are predicted.

    They take room for each class, where the confusion of a protein would take it for each pair of them.
    """

    record: np.ndarray
    tally: np.ndarray
    """(S, n, 3, C); (n, 3, C) for one seed."""
    measure: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        tally = self.tally if self.tally.ndim == 4 else self.tally[None]
        if tally.shape[1] != len(self.record):
            raise ValueError(f"tallies of {tally.shape[1]} proteins for {len(self.record)} records")
        object.__setattr__(self, "tally", tally)

    @classmethod
    def of(
        cls,
        record: np.ndarray,
        owner: np.ndarray,
        prediction: np.ndarray,
        target: np.ndarray,
        classes: int,
        measure: Callable[[np.ndarray], np.ndarray],
    ) -> "Tallies":
        """Count classes `prediction` (E,) and `target` (E,) of entries whose proteins are `owner` (E,)."""
        _check(record, owner, target)
        right = prediction == target
        parts = ((owner[right], target[right]), (owner, target), (owner, prediction))
        counts = [np.bincount(own * classes + of, minlength=len(record) * classes) for own, of in parts]
        return cls(record, np.stack([each.reshape(-1, classes) for each in counts], axis=1), measure)

    @property
    def counted(self) -> np.ndarray:
        return self.tally[0, :, 1].sum(axis=1) > 0

    @property
    def seeds(self) -> int:
        return len(self.tally)

    def only(self, kept: np.ndarray) -> "Tallies":
        return Tallies(self.record[kept], self.tally[:, kept], self.measure)

    def evaluate(self, counts: np.ndarray) -> np.ndarray:
        shape = self.tally.shape[2:]
        of_proteins = self.tally[:, self.counted].reshape(self.seeds, -1, np.prod(shape)).astype(np.float64)
        summed = np.stack([counts @ each for each in of_proteins])  # (S, R, 3 C); exact: whole numbers
        return np.stack([self.measure(each.reshape(-1, *shape)) for each in summed], axis=1)


def _check(record: np.ndarray, owner: np.ndarray, target: np.ndarray) -> None:
    if (np.diff(record) <= 0).any():
        raise ValueError("records do not ascend")
    if len(owner) != len(target) or (len(owner) and not 0 <= owner.min() <= owner.max() < len(record)):
        raise ValueError(f"{len(owner)} owners of {len(target)} entries, among {len(record)} records")


def _parts(tally: np.ndarray) -> np.ndarray:
    """What is right, is a target, is predicted of each class, (3, R, C) float64."""
    return tally.astype(np.float64).swapaxes(0, 1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
