"""Derives ProteinGym's published summary from its published scores by assay, to show that the aggregation is the same."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmark.aggregation import COLUMNS, STANDARD_ERROR, summarize
from proteinlm.data.formats.proteingym import read_reference, read_scores
from proteinlm.data.formats.table import Table, read_table
from proteinlm.errors import InputError
from proteinlm.launch import entry

REFERENCE = "DMS_substitutions.csv"
BY_ASSAY = "DMS_substitutions_Spearman_DMS_level.csv"
SUMMARY = "Summary_performance_DMS_substitutions_Spearman.csv"
METRIC = "Spearman"
DIGITS = 3


class Comparison(NamedTuple):
    """A number of the published summary and what the scores by assay come to."""

    model: str
    column: str
    published: float
    derived: float

    @property
    def agrees(self) -> bool:
        """Whether they are the same in the printed digits."""
        return bool(np.round(self.derived, DIGITS) == self.published)


def compare(directory: Path) -> list[Comparison]:
    """Every number of the published summary that follows from the scores by assay, beside what we derive.

    `directory` holds ProteinGym's three files, plain or with .gz; raises `InputError` if one is missing or damaged, or
    if the two tables name different models.
    """
    reference = read_reference(find(directory, REFERENCE))
    scores = read_scores(find(directory, BY_ASSAY), reference)
    table = read_table(find(directory, SUMMARY), "Model_name")
    models = table.column("Model_name")
    if strange := set(models) ^ set(scores.models):
        raise InputError(f"{table.path}: {sorted(strange)[0]} is in one of the summary and the scores by assay alone")
    summary = summarize([reference[name] for name in scores.assays], scores.values)
    columns = {name if own != "Average" else f"{name}_{METRIC}": summary.averages[own] for name, own in COLUMNS.items()}
    columns[f"{STANDARD_ERROR}_{METRIC}"] = summary.standard_error
    return list(_compared(table, models, scores.models, columns))


def _compared(
    table: Table, models: list[str], order: list[str], columns: dict[str, np.ndarray]
) -> Iterator[Comparison]:
    for name, derived in columns.items():
        for model, cell in zip(models, table.column(name), strict=True):
            try:
                published = float(cell)
            except ValueError:
                raise InputError(f"{table.path}: {name} of {model} is {cell!r}, no number") from None
            yield Comparison(model, name, published, float(derived[order.index(model)]))


def report(comparisons: list[Comparison]) -> Iterator[str]:
    """What agrees, in lines."""
    errors = [one for one in comparisons if one.column.startswith(STANDARD_ERROR)]
    means = [one for one in comparisons if not one.column.startswith(STANDARD_ERROR)]
    models = len({one.model for one in comparisons})
    same = sum(one.agrees for one in means)
    yield f"averages: {same:,} of {len(means):,} agree in all {DIGITS} digits ({models} models, {len(COLUMNS)} columns)"
    furthest = max(abs(one.derived - one.published) for one in errors)
    same = sum(one.agrees for one in errors)
    yield (
        f"standard errors: {same} of {len(errors)} agree in all {DIGITS} digits, the others within {furthest:.4f}: "
        "the published ones are of 10,000 random resamples, ours are their limit"
    )
    for one in means:
        if not one.agrees:
            yield f"differs: {one.model}, {one.column}: {one.published} published, {one.derived:.6f} derived"


def find(directory: Path, name: str) -> Path:
    """The file `name` of a directory, plain or compressed; `InputError` if it is not there."""
    for path in (directory / name, directory / f"{name}.gz", directory / f"{name}.xz"):
        if path.is_file():
            return path
    raise InputError(f"{directory / name}: not there, nor with .gz: ProteinGym publishes it")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.published", description=__doc__)
    parser.add_argument("directory", type=Path, help="holds ProteinGym's published tables")
    comparisons = compare(parser.parse_args(arguments).directory)
    print(*report(comparisons), sep="\n")
    return int(not all(one.agrees for one in comparisons if not one.column.startswith(STANDARD_ERROR)))


if __name__ == "__main__":
    entry.command(main)
