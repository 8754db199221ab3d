"""Benchmarks on the page: each contestant's main measure, and the record it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from experiments.benchmark.table import Cell, Column, contestants
from experiments.report.numbers import Estimate, number
from proteinlm.records.run_directory import BENCHMARK


@dataclass(frozen=True)
class Benchmarks:
    """The table of benchmarks."""

    columns: Sequence[Column]
    lines: list[tuple[str, list[tuple[Estimate | None, bool]]]]
    """A contestant, and for each column its score and whether it is the best or a tie with it."""


def of(columns: Sequence[Column], directory: Path) -> Benchmarks:
    """The table of `columns`, whose records are below `directory`."""
    return Benchmarks(
        columns, [(name, [_cell(column, name, directory) for column in columns]) for name in contestants(columns)]
    )


def _cell(column: Column, name: str, directory: Path) -> tuple[Estimate | None, bool]:
    cell = column.cells.get(name)
    return (_estimate(cell, directory), cell.tie) if cell else (None, False)


def _estimate(cell: Cell, directory: Path) -> Estimate:
    file, place = str(cell.record.directory.relative_to(directory) / BENCHMARK), f"scores[{cell.place}]"
    low, high = (
        None if isnan(bound) else number(bound, file, f"{place}.{end}", 2)
        for end, bound in (("low", cell.scored.low), ("high", cell.scored.high))
    )
    return Estimate(number(cell.scored.value, file, f"{place}.value"), low, high)
