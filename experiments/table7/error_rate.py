"""How often the claims are decided where there is nothing to decide: ``python -m experiments.table7.error_rate DIR ...``.

Made-up tables without an effect are made from a real one, with its columns correlated as they are:

- bigger, depth or width, balance: the ten rows' scores are dealt to other shapes;
- depth or width, once more: sizes matter as they do, but depth no more than width;
- few layers, pretraining: each row scores what the fit predicts, and deviates from it by normal numbers of the covariance
  that the deviations have; a control is another draw of its row, the shallow row is as good as its parameters say.

A verdict should come up in at most 5 % of them. The paper's table is always one of the real ones. Imports no torch.

R rows, C columns.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np

from experiments.table7 import claims
from experiments.table7.claims import (
    BALANCE,
    BIGGER,
    CONTRADICTED,
    DEPTH,
    FEW,
    PRETRAINING,
    SUPPORTED,
    Points,
    Reading,
)
from experiments.table7.published import TABLE7
from experiments.table7.rows import collect_some, shape_of
from proteinlm.launch import entry

CONTROL, SHALLOW = "hidden-1024-layer-12-head-16", "hidden-8192-layer-3"
ONE = f"{PRETRAINING[:-1]}, by one control."
EQUAL = f"{DEPTH[:-1]}, where size matters but neither of them more."


def rates(points: Points, tables: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Of each claim, the share of tables without its effect in which it is supported and contradicted."""
    found: dict[str, dict[str, float]] = {}
    for number, (claim, make) in enumerate(_MAKERS.items()):
        generator = np.random.default_rng((seed, number))
        counts = Counter(reading.verdict for reading in make(points, tables, generator))
        found[claim] = {verdict: counts[verdict] / tables for verdict in (SUPPORTED, CONTRADICTED)}
    return found


def _dealt(read: Callable[[Points], Reading]) -> Callable[..., Iterator[Reading]]:
    def make(points: Points, tables: int, generator: np.random.Generator) -> Iterator[Reading]:
        scores = _scores(points)
        for _ in range(tables):
            yield read(_with(points, generator.permutation(scores)))

    return make


def _equal(points: Points, tables: int, generator: np.random.Generator) -> Iterator[Reading]:
    """Depth and width of equal worth: a doubling of one adds what a doubling of the other does."""
    shapes = [(shape.hidden_size, shape.num_layers) for shape in points.shapes]
    products = np.array([[1, np.log2(hidden) + np.log2(layers)] for hidden, layers in shapes])
    predicted, deviations = _fit(points, products)
    for _ in range(tables):
        yield claims.depth_or_width(_with(points, predicted + generator.permutation(deviations)))


def _control(points: Points, tables: int, generator: np.random.Generator) -> Iterator[Reading]:
    row = [*TABLE7].index(CONTROL)
    predicted, deviations = _fit(points, claims.by_shape(points.shapes))
    for drawn in _drawn(deviations, len(TABLE7) + 1, tables, generator):
        yield claims.pretraining(_with(points, predicted + drawn[:-1]), row, _row(points, predicted[row] + drawn[-1]))


def _controls(points: Points, tables: int, generator: np.random.Generator) -> Iterator[Reading]:
    predicted, deviations = _fit(points, claims.by_shape(points.shapes))
    for drawn in _drawn(deviations, 2 * len(TABLE7), tables, generator):
        rows, controls = predicted + drawn.reshape(2, *predicted.shape)
        yield claims.pretraining_of_all(_with(points, rows), [_row(points, scores) for scores in controls])


def _shallow(points: Points, tables: int, generator: np.random.Generator) -> Iterator[Reading]:
    shape = shape_of(SHALLOW)
    full, built = (claims.by_parameters(each) for each in ([shape_of(n).parameters for n in TABLE7], points.parameters))
    parameters = round(2 ** float(np.interp(np.log2(shape.parameters), *_ascending(full[:, 1], built[:, 1]))))
    solution = np.linalg.lstsq(built, _scores(points), rcond=None)[0]
    predicted, deviations = _fit(points, built)
    expected = claims.by_parameters([parameters])[0] @ solution
    for drawn in _drawn(deviations, len(TABLE7) + 1, tables, generator):
        yield claims.few_layers(_with(points, predicted + drawn[:-1]), parameters, _row(points, expected + drawn[-1]))


_MAKERS = {
    BIGGER: _dealt(claims.bigger),
    DEPTH: _dealt(claims.depth_or_width),
    EQUAL: _equal,
    BALANCE: _dealt(claims.balance),
    FEW: _shallow,
    PRETRAINING: _controls,
    ONE: _control,
}


def _fit(points: Points, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (R, C) as predicted, and the deviations (R, C), as wide as the noise that they are a sample of."""
    scores = _scores(points)
    predicted = design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    rows, coefficients = design.shape
    return predicted, (scores - predicted) * sqrt(rows / (rows - coefficients))


def _drawn(deviations: np.ndarray, count: int, tables: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """New deviations (count, C) for each table, of the same covariance."""
    rows = len(deviations)
    for _ in range(tables):
        yield generator.standard_normal((count, rows)) @ deviations / sqrt(rows)


def _ascending(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(first)
    return first[order], second[order]


def _scores(points: Points) -> np.ndarray:
    return np.array([*points.columns.values()]).T


def _with(points: Points, scores: np.ndarray) -> Points:
    return replace(points, columns=dict(zip(points.columns, scores.T, strict=True)))


def _row(points: Points, scores: Sequence[float]) -> dict[str, float]:
    return dict(zip(points.columns, scores, strict=True))


def measure(directories: Sequence[Path], tables: int) -> dict[str, dict[str, dict[str, float]]]:
    """Print and return the rates of the paper's table and of these sweeps, each under its name."""
    points = {"the paper": claims.paper()}
    points |= {place.name: claims.points_of(collect_some(place)) for place in directories}
    found = {}
    for name, table in points.items():
        print(f"\n{name}\n\n| claim | supported | contradicted |\n|:--|--:|--:|", flush=True)
        found[name] = rates(table, tables)
        for claim, shares in found[name].items():
            print(f"| {claim} | {shares[SUPPORTED]:.2%} | {shares[CONTRADICTED]:.2%} |", flush=True)
    return found


def parser(module: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"python -m {module}", description="Error rates of verdicts.")
    made.add_argument("directories", type=Path, nargs="*", help="of sweeps; the paper's table comes first")
    made.add_argument("--tables", type=int, default=5_000, help="without an effect, for each claim")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser("experiments.table7.error_rate").parse_args(arguments)
    measure(options.directories, options.tables)
    return 0


if __name__ == "__main__":
    entry.command(main)
