"""ProteinGym's summary of scores by assay, as published, and its standard error.

Assays of one protein that select for the same are averaged first, then proteins within each selection type, then the
types. By depth of the alignment and by taxon, assays of one protein are averaged, then proteins. (The published code,
``performance_DMS_benchmarks.py``, does so with pandas.) An assay that a model has no score of is left out of its means.

By number of mutations it needs the scores of the variants: no table by assay says them.

A assays, M models, G groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from proteinlm.data.formats.proteingym import DEPTHS, SELECTIONS, TAXA, Assay

AVERAGE = "Average"
COLUMNS = {
    AVERAGE: AVERAGE,
    **{f"Function_{selection}": selection for selection in SELECTIONS},
    **{f"{depth}_MSA_depth": depth for depth in DEPTHS},
    **{f"Taxa_{'Other_' if taxon == 'Eukaryote' else ''}{taxon}": taxon for taxon in TAXA},
}
"""The names that the published summary has for the averages, and ours."""
STANDARD_ERROR = "Bootstrap_standard_error"


class Summary(NamedTuple):
    """The averages of each model."""

    averages: dict[str, np.ndarray]
    """By name, `AVERAGE` and the values of `COLUMNS`: (M,) float64, nan where nothing was scored."""
    standard_error: np.ndarray
    """(M,) float64: of the difference from the best model, to which it is 0."""
    own_error: np.ndarray
    """(M,) float64: the standard error of the average itself, nan where a selection type has one protein."""


def summarize(assays: Sequence[Assay], values: np.ndarray) -> Summary:
    """The averages over `assays` of the scores `values` (A, M), nan where there is none."""
    by_selection = _grouped([(assay.protein, assay.selection) for assay in assays], values)
    averages = {selection: _mean(_of(by_selection, selection)) for selection in SELECTIONS}
    averages[AVERAGE] = _mean(np.stack(list(averages.values())))
    for names, key in ((DEPTHS, [assay.depth for assay in assays]), (TAXA, [assay.taxon for assay in assays])):
        grouped = _grouped([(assay.protein, own) for assay, own in zip(assays, key, strict=True)], values)
        averages |= {name: _mean(_of(grouped, name)) for name in names}
    best = None if np.isnan(averages[AVERAGE]).all() else int(np.nanargmax(averages[AVERAGE]))
    relative = {
        key: row - row[best] if best is not None else np.full_like(row, np.nan) for key, row in by_selection.items()
    }
    error, _ = _standard_error(relative)
    own_error, fewest = _standard_error(by_selection)
    return Summary(averages, error, np.where(fewest > 1, own_error, np.nan))


class Difference(NamedTuple):
    """The average of one model less that of another."""

    value: float
    error: float
    """Its standard error, over proteins that are drawn for both models at once; nan where a selection type has one."""


def difference(assays: Sequence[Assay], first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the averages over `assays` of two models' scores (A,) on the same proteins.

    An assay that one of them has no score of counts for neither.
    """
    both = np.where(np.isnan(first + second), np.nan, np.stack([first, second])).T  # (A, 2)
    groups = _grouped([(assay.protein, assay.selection) for assay in assays], both)
    averages = _mean(np.stack([_mean(_of(groups, selection)) for selection in SELECTIONS]))
    error, fewest = _standard_error({key: row[:1] - row[1:] for key, row in groups.items()})
    return Difference(float(averages[0] - averages[1]), float(error[0]) if fewest[0] > 1 else float("nan"))


Groups = dict[tuple[str, str], np.ndarray]
"""The mean scores (M,) by protein and category, in the order of the names."""


def _grouped(keys: list[tuple[str, str]], values: np.ndarray) -> Groups:
    members: dict[tuple[str, str], list[np.ndarray]] = {}
    for key, row in zip(keys, values, strict=True):
        members.setdefault(key, []).append(row)
    return {key: _mean(np.stack(members[key])) for key in sorted(members)}


def _of(groups: Groups, category: str) -> np.ndarray:
    """The groups of one category, (G, M)."""
    rows = [row for (_, own), row in groups.items() if own == category]
    width = len(next(iter(groups.values()))) if groups else 0
    return np.stack(rows) if rows else np.zeros((0, width))


def _mean(rows: np.ndarray) -> np.ndarray:
    """The mean (M,) of the numbers in each column of `rows` (G, M), nan where there is none.

    Summed in order with Kahan's compensation, as pandas does: means that end in a 5 then round as published.
    """
    total, lost, count = (np.zeros(rows.shape[1]) for _ in range(3))
    for row in rows:
        there = ~np.isnan(row)
        count += there
        term = np.where(there, row, 0.0) - lost
        summed = total + term
        lost = (summed - total) - term
        total = summed
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _standard_error(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The limit of the published bootstrap for many resamples, and the fewest proteins of a selection type, (M,) each.

    Proteins are drawn within each selection type. A mean of n values that are drawn n times has the variance of the values
    over n; the average of the types has the sum of theirs over the square of their number.
    """
    variances, counts = [], []
    for selection in SELECTIONS:
        rows = _of(groups, selection)
        if len(rows):
            counts.append((~np.isnan(rows)).sum(axis=0))
            centred = rows - _mean(rows)
            variances.append(_mean(centred**2) / np.maximum(counts[-1], 1))
    return np.sqrt(np.sum(variances, axis=0)) / len(variances), np.min(counts, axis=0)
