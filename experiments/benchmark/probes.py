"""Linear probes on features that stay as they are: ridge regression of numbers, logistic regression of classes.

The strength of the penalty is the one that scores best on validation. N entries, F features, C classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from proteinlm.records.measures import spearman

RIDGE = tuple(10.0**power for power in range(-2, 6))
"""Penalties of the ridge regression, on standardised features."""
LOGISTIC = (1e-5, 1e-3)
"""Penalties of the mean squared weight in the logistic regression."""
ITERATIONS = 60
CHUNK = 1 << 16
"""Entries that are in float32 at once."""

Predict = Callable[[np.ndarray], np.ndarray]
"""From features (N, F) to numbers, or numbers of classes, (N,)."""


def ridge(train: np.ndarray, target: np.ndarray, valid: np.ndarray, wanted: np.ndarray) -> Predict:
    """Least squares with a penalty; of those in `RIDGE`, the one that ranks the validation entries best."""
    mean, deviation = _standard(train)
    width, centre = train.shape[1], target.mean(dtype=np.float64)
    squares, products = np.zeros((width, width)), np.zeros(width)
    for begin in range(0, len(train), CHUNK):
        part = ((train[begin : begin + CHUNK] - mean) / deviation).astype(np.float64)
        squares += part.T @ part
        products += part.T @ (target[begin : begin + CHUNK] - centre)

    def predict(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return ((features - mean) / deviation) @ weights + centre

    fitted = [np.linalg.solve(squares + penalty * np.eye(width), products) for penalty in RIDGE]
    best = max(fitted, key=lambda weights: _or_lowest(spearman(predict(valid, weights), wanted)))
    return lambda features: predict(features, best)


def logistic(train: np.ndarray, target: np.ndarray, valid: np.ndarray, wanted: np.ndarray, classes: int) -> Predict:
    """Multinomial logistic regression by LBFGS; of the penalties in `LOGISTIC`, the most accurate on validation."""
    mean, deviation = _standard(train)
    fitted = [_descend(train, target, mean, deviation, classes, penalty) for penalty in LOGISTIC]

    def predict(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
        scaled = ((features - mean) / deviation).astype(np.float32)
        return (scaled @ weights[:-1] + weights[-1]).argmax(axis=1)

    best = max(fitted, key=lambda weights: float((predict(valid, weights) == wanted).mean()))
    return lambda features: predict(features, best)


def _descend(
    train: np.ndarray, target: np.ndarray, mean: np.ndarray, deviation: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """The weights (F + 1, C), the last row the biases."""
    weights = torch.zeros(train.shape[1] + 1, classes, requires_grad=True)
    wanted = torch.from_numpy(target)
    optimiser = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        total = penalty * weights[:-1].square().sum()
        total.backward()
        for begin in range(0, len(train), CHUNK):
            scaled = ((train[begin : begin + CHUNK] - mean) / deviation).astype(np.float32)
            logits = torch.from_numpy(scaled) @ weights[:-1] + weights[-1]
            part = F.cross_entropy(logits, wanted[begin : begin + CHUNK], reduction="sum") / len(train)
            part.backward()
            total = total.detach() + part.detach()
        return total

    optimiser.step(loss)  # type: ignore[arg-type]
    return weights.detach().numpy()


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature, (F,) float32; the deviation of one that never varies is 1."""
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(spread > 1e-6, spread, 1).astype(np.float32)


def _or_lowest(score: float) -> float:
    return -np.inf if np.isnan(score) else score
