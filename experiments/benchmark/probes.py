"""Linear probes on features that stay as they are: ridge regression of numbers, logistic regression of classes.

The features come in blocks, of which one is in memory at a time. The strength of the penalty is the one that scores best on
validation. N entries, n of them in a block, F features, C classes, P penalties.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from proteinlm.data.progress import Bar
from proteinlm.records.measures import CLASSES, Tallies, spearman

RIDGE = tuple(10.0**power for power in range(-2, 6))
"""Penalties of the ridge regression, on standardised features."""
LOGISTIC = (1e-3, 1e-5)
"""Penalties of the mean squared weight in the logistic regression; each begins where the one before has ended."""
ITERATIONS = 100
BLOCK = 2_048
"""Entries of a block, about: so few that the memory of a block serves the next one too, without asking the system anew."""

Blocks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Goes through all entries once: the places (n,) of some among them, and their features (n, F)."""
Predict = Callable[[Blocks], np.ndarray]
"""From features to numbers, or numbers of classes, (N,)."""


class Learnt(NamedTuple):
    """Entries whose targets (N,) are known."""

    blocks: Blocks
    target: np.ndarray


class Moments(NamedTuple):
    """What least squares knows of the features of all entries, float64."""

    mean: np.ndarray
    """(F,)"""
    deviation: np.ndarray
    """(F,): 1 of a feature that never varies."""
    squares: np.ndarray
    """The sum over entries of the products of two standardised features, (F, F)."""
    products: np.ndarray
    """The sum over entries of a standardised feature times the centred target, (F,)."""
    centre: float
    """The mean of the targets."""


def blocks_of(features: np.ndarray) -> Blocks:
    """The blocks of features (N, F) that are in memory."""

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin in range(0, len(features), BLOCK):
            part = features[begin : begin + BLOCK]
            yield np.arange(begin, begin + len(part)), part

    return blocks


def moments(learnt: Learnt) -> Moments:
    """The moments of the features, in one pass."""
    centre = learnt.target.mean(dtype=np.float64)
    _, first = next(learnt.blocks())
    shift = first.mean(axis=0, dtype=np.float64)  # about the mean: so no digits are lost where its square is taken off
    count, total, products = 0, np.zeros_like(shift), np.zeros_like(shift)
    squares = np.zeros((len(shift), len(shift)))
    for places, features in learnt.blocks():
        part = features - shift
        count += len(part)
        total += part.sum(axis=0)
        products += part.T @ (learnt.target[places] - centre)
        squares += part.T @ part
    mean = total / count
    squares -= count * np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(squares), 0) / count)
    deviation[deviation <= 1e-6] = 1.0
    squares /= np.outer(deviation, deviation)
    return Moments(shift + mean, deviation, squares, products / deviation, float(centre))


def ridge(train: Learnt, valid: Learnt) -> Predict:
    """Least squares with a penalty; of those in `RIDGE`, the one that ranks the validation entries best."""
    known = moments(train)
    unit = np.eye(len(known.mean))
    weights = np.stack(
        [np.linalg.solve(known.squares + penalty * unit, known.products) for penalty in RIDGE], axis=1
    )  # (F, P)
    weights /= known.deviation[:, None]

    def predictions(blocks: Blocks, weights: np.ndarray) -> np.ndarray:
        return _in_order(blocks, lambda features: (features - known.mean) @ weights) + known.centre

    scores = [_or_lowest(spearman(prediction, valid.target)) for prediction in predictions(valid.blocks, weights).T]
    best = weights[:, int(np.argmax(scores))]
    return lambda blocks: predictions(blocks, best)


def logistic(train: Learnt, valid: Learnt, classes: int, measure: str = "accuracy") -> Predict:
    """Multinomial logistic regression; of the penalties in `LOGISTIC`, the best on validation by a `measure` of `CLASSES`.

    L-BFGS that begins at the shares of the classes, in units in which the Hessian there is the identity: so it takes tens of
    passes over the features, however much these are correlated and however rare a class is.
    """
    known = moments(train)
    shares = (np.bincount(train.target, minlength=classes) + 1) / (len(train.target) + classes)  # (C,)
    of_features = np.linalg.eigh(known.squares / len(train.target))
    of_classes = np.linalg.eigh(np.diag(shares) - np.outer(shares, shares))
    axes = Axes(*map(torch.from_numpy, (*of_features, *of_classes)))
    weights = np.zeros((len(known.mean) + 1, classes))
    weights[-1] = np.log(shares)
    fitted = []
    with Bar("fitting", ITERATIONS * len(LOGISTIC), of_bytes=False) as bar:
        for penalty in LOGISTIC:
            weights = _descend(train, known, axes, weights, penalty, bar)
            fitted.append(weights)

    def predictions(blocks: Blocks, weights: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy(weights[:-1] / known.deviation[:, None]).float()
        mean, bias = torch.from_numpy(known.mean).float(), torch.from_numpy(weights[-1]).float()
        return _in_order(blocks, lambda features: (_centred(features, mean) @ scaled + bias).argmax(dim=1).numpy())

    one, owner = np.zeros(1, np.int64), np.zeros(len(valid.target), np.int64)  # all entries as of one protein

    def score(weights: np.ndarray) -> float:
        found = predictions(valid.blocks, weights)
        return _or_lowest(Tallies.of(one, owner, found, valid.target, classes, CLASSES[measure]).estimate())

    best = max(fitted, key=score)
    return lambda blocks: predictions(blocks, best)


class Axes(NamedTuple):
    """In which the Hessian of the cross-entropy is diagonal where all predictions are the shares of the classes, float64.

    There it is a product of what features and what classes have to do with each other; eigenvectors are columns.
    """

    variances: Tensor
    """(F,): the eigenvalues of the correlations of features."""
    features: Tensor
    """(F, F): their eigenvectors."""
    doubts: Tensor
    """(C,): the eigenvalues of the covariances of classes, one of them 0."""
    classes: Tensor
    """(C, C): their eigenvectors."""


def _descend(train: Learnt, known: Moments, axes: Axes, start: np.ndarray, penalty: float, bar: Bar) -> np.ndarray:
    """The weights (F + 1, C) of standardised features, the last row the biases, from those to start with."""
    classes, entries = start.shape[1], len(train.target)
    mean, wanted = torch.from_numpy(known.mean).float(), torch.from_numpy(train.target)
    deviation = torch.from_numpy(known.deviation).unsqueeze(1)
    doubts = axes.doubts.clamp(min=1 / entries)
    curvature = axes.variances.clamp(min=0).unsqueeze(1) * axes.doubts.clamp(min=0) + 2 * penalty  # (F, C)
    units = torch.cat([curvature, doubts.unsqueeze(0)]).rsqrt()  # (F + 1, C)
    begin = torch.from_numpy(start) @ axes.classes
    free = (torch.cat([axes.features.T @ begin[:-1], begin[-1:]]) / units).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [free], max_iter=ITERATIONS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )

    def as_weights() -> Tensor:
        scaled = free * units
        return torch.cat([axes.features @ scaled[:-1], scaled[-1:]]) @ axes.classes.T

    def loss() -> Tensor:
        optimiser.zero_grad()
        weights = as_weights()
        total = penalty * weights[:-1].square().sum()
        slope = torch.zeros_like(weights)  # of the mean cross-entropy
        scaled, bias = (weights[:-1] / deviation).detach().float(), weights[-1].detach().float()
        with torch.no_grad():
            cross_entropy = torch.zeros((), dtype=torch.float64)
            for places, features in train.blocks():
                part, own = _centred(features, mean), wanted[places]
                logs = F.log_softmax(part @ scaled + bias, dim=1)
                cross_entropy -= logs.gather(1, own.unsqueeze(1)).double().sum()
                residual = logs.exp() - F.one_hot(own, classes)
                slope[:-1] += part.T @ residual
                slope[-1] += residual.sum(dim=0)
            slope[:-1] /= deviation
            slope /= entries
        (total + (weights * slope).sum()).backward()
        bar.advance(1)
        return total.detach() + cross_entropy / entries

    optimiser.step(loss)  # type: ignore[arg-type]
    return as_weights().detach().numpy()


def _centred(features: np.ndarray, mean: Tensor) -> Tensor:
    return torch.from_numpy(features).float() - mean


def _in_order(blocks: Blocks, predict: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The predictions for all entries, by their places."""
    parts = [(places, predict(features)) for places, features in blocks()]
    order, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    result = np.empty_like(found)
    result[order] = found
    return result


def _or_lowest(score: float) -> float:
    return -np.inf if np.isnan(score) else score
