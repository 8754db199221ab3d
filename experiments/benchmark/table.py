"""The benchmarks of all models below a directory in one table: ``python -m experiments.benchmark.table runs/benchmarks``.

Made from records and saved predictions alone. Models that were tested on the same proteins are compared with each other,
and with what needs no network. Imports no torch.
"""

import argparse
import csv
from collections.abc import Sequence
from io import StringIO
from math import isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmark import by_assay, records
from experiments.benchmark.records import Record, Scored
from experiments.benchmark.scores import cell, ties
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records.bootstrap import Interval
from proteinlm.storage.atomic import write_text

FILE = "benchmarks"
FIELDS = (
    "contestant",
    "benchmark",
    "split",
    "metric",
    "value",
    "low",
    "high",
    "tie",
    "train",
    "valid",
    "test",
    "labels",
)


class Cell(NamedTuple):
    """The main measure of one contestant."""

    scored: Scored
    tie: bool
    """Whether it is the best of its column, or cannot be told from it."""
    record: Record

    @property
    def place(self) -> int:
        """The place of the score in its record."""
        return self.record.scores.index(self.scored)

    def text(self) -> str:
        mark = "**" if self.tie else ""
        return f"{mark}{cell(self.scored.value, Interval(self.scored.low, self.scored.high))}{mark}"


class Column(NamedTuple):
    """One split of a benchmark, with as many proteins: whoever was tested there."""

    first: Record
    cells: dict[str, Cell]
    """By contestant."""
    remarks: Sequence[str] = ()
    """Lines below the table."""

    @property
    def title(self) -> str:
        return self.first.title

    @property
    def note(self) -> str:
        counts = self.first.counts
        learnt = f"{counts['train']:,} + {counts['valid']:,} to " if "train" in counts else ""
        return f"{self.first.main.replace('_', ' ')}, {learnt}{counts['test']:,}"


def columns(directory: Path) -> list[Column]:
    """The columns of all records below `directory`, in the order of their benchmarks."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records.load_all(directory):
        key = (record.title, *(f"{part}={count:09}" for part, count in sorted(record.counts.items())))
        groups.setdefault(key, []).append(record)
    return [_column(groups[key]) for key in sorted(groups)]


def _column(group: list[Record]) -> Column:
    first = group[0]
    source = {name: record for record in reversed(group) for name in record.contestants}
    order = dict.fromkeys([record.model for record in group if record.model in source])
    order |= dict.fromkeys(name for record in group for name in record.contestants)
    remarks = []
    if len(group) == 1:
        tied = {each.contestant for each in first.scores if each.tie}
    elif first.kind == records.RANKING:
        tied, remarks = _averages_compared(source)
    else:
        tied = _ties(group, source)
    return Column(
        first, {name: Cell(source[name].of(name, first.main), name in tied, source[name]) for name in order}, remarks
    )


def _averages_compared(source: dict[str, Record]) -> tuple[set[str], list[str]]:
    """The best average and those that cannot be told from it, and the differences in words."""
    found = by_assay.differences({name: by_assay.load(record.directory) for name, record in source.items()})
    if not found:
        return set(), []
    [best] = source.keys() - found.keys()
    title = next(iter(source.values())).title
    remarks = [f"{title}, differences of averages on the same proteins:"]
    remarks += [by_assay.line(best, name, each) for name, each in found.items()]
    return {best} | {name for name, each in found.items() if by_assay.is_tie(each)}, remarks


def _ties(group: list[Record], source: dict[str, Record]) -> set[str]:
    """Who is best or cannot be told from it; nobody where predictions are missing or the labels differ."""
    saved = {id(record): records.load_predictions(record) for record in group}
    found = [each for each in saved.values() if each]
    if len(found) < len(group):
        return set()
    labels = found[0][0]
    if not all(
        np.array_equal(labels.owner, other.owner) and np.array_equal(labels.target, other.target, equal_nan=True)
        for other, _ in found
    ):
        return set()
    samples = {}
    for name, record in source.items():
        predictions = saved[id(record)]
        assert predictions
        samples[name] = labels.samples(predictions[1][name])[group[0].main]
    return ties(samples, max(int(record.options["resamples"]) for record in group))


def contestants(shown: Sequence[Column]) -> list[str]:
    """All contestants: first the models, then whatever they are compared with."""
    models = dict.fromkeys(each.record.model for column in shown for each in column.cells.values())
    every = dict.fromkeys(name for column in shown for name in column.cells)
    return [name for name in models if name in every] + [name for name in every if name not in models]


def as_markdown(shown: Sequence[Column]) -> list[str]:
    """The table, of which each column has its measure and how many proteins it has to train, for validation and to test."""
    lines = [
        f"| | {' | '.join(f'{column.title} ({column.note})' for column in shown)} |",
        f"|:--|{'--:|' * len(shown)}",
    ]
    for name in contestants(shown):
        cells = (column.cells[name].text() if name in column.cells else "" for column in shown)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for column in shown:
        lines += ["", *column.remarks] if column.remarks else []
    return lines


def as_csv(shown: Sequence[Column]) -> str:
    """One line for each score of the table; an undefined one is empty."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for column in shown:
        for name, each in column.cells.items():
            numbers = (
                "" if isnan(value) else value for value in (each.scored.value, each.scored.low, each.scored.high)
            )
            counts = (column.first.counts.get(part, "") for part in FIELDS[-4:])
            writer.writerow(
                [name, column.first.benchmark, column.first.split, each.scored.metric, *numbers, int(each.tie), *counts]
            )
    return text.getvalue()


def write(directory: Path) -> list[str]:
    """Write ``benchmarks.md`` and ``.csv``, if there are benchmarks below `directory`; the lines of the first."""
    shown = columns(directory)
    if not shown:
        return []
    lines = as_markdown(shown)
    write_text(directory / f"{FILE}.md", "\n".join(lines) + "\n")
    write_text(directory / f"{FILE}.csv", as_csv(shown))
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.table", description="Print all benchmarks.")
    parser.add_argument("directory", type=Path, help="of a group of results: runs/benchmarks, or a sweep's")
    directory = parser.parse_args(arguments).directory
    lines = write(directory)
    if not lines:
        raise InputError(f"{directory}: no {records.BENCHMARK} below it")
    print(*lines, f"written: {directory / FILE}.md, .csv", sep="\n")
    return 0


if __name__ == "__main__":
    entry.command(main)
