"""Times taken in turns, since a machine's speed drifts, and the record of what came of them."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from proteinlm.records import results
from proteinlm.records.bootstrap import Interval, Scores, bootstrap
from proteinlm.storage.atomic import write_text


class Figure(NamedTuple):
    """One measured number."""

    what: str
    value: float
    unit: str
    target: str = ""
    """What it should be; empty where it only explains another."""
    interval: Interval | None = None
    """Of the value, over other rounds than those measured."""

    def text(self) -> str:
        """The value for a reader."""
        if self.interval is None:
            return f"{self.value:,.2f}"
        return f"{self.value:,.2f} ({self.interval.low:,.2f} to {self.interval.high:,.2f})"


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds that `action` takes by the clock: of several threads, processor time does not tell how long they waited."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def time_in_turns(arms: Mapping[str, Callable[[], object]], repeats: int, warming: int = 1) -> dict[str, list[float]]:
    """Seconds of each arm, one after the other, `repeats` times after `warming` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    rounds = warming + repeats
    for number in range(rounds):
        began = time.perf_counter()
        for name, action in arms.items():
            seconds[name].append(seconds_of(action))
        print(f"round {number + 1} of {rounds}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return {name: taken[warming:] for name, taken in seconds.items()}


def rate(work: list[float], seconds: list[float]) -> float:
    """What is done in a second, by the median over rounds."""
    return statistics.median(done / taken for done, taken in zip(work, seconds, strict=True))


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as long they take, by the median over rounds."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def ratio_of_totals(theirs: list[float], ours: list[float]) -> tuple[float, Interval | None]:
    """How many times as long they take for all rounds together, and the interval had other rounds been drawn.

    A few heavy batches cost some most of their time, so a median over rounds would leave out what training pays. One
    round has no interval.
    """
    rounds = Scores(np.arange(len(ours)), np.divide(theirs, ours), np.array(ours))
    return rounds.estimate(), bootstrap(rounds) if rounds.n > 1 else None


def report(title: str, figures: list[Figure], directory: Path, name: str) -> None:
    """Print the figures, and write them with the versions and the commit they belong to."""
    table = Table("what", "measured", "", "wanted", title=title, box=None)
    lines = [f"{title}", "", "| what | measured | wanted |", "|:--|--:|:--|"]
    for figure in figures:
        table.add_row(figure.what, figure.text(), figure.unit, figure.target)
        lines.append(f"| {figure.what} | {figure.text()} {figure.unit} | {figure.target} |")
    Console(width=120).print(table)
    directory.mkdir(parents=True, exist_ok=True)
    record = {"title": title, "figures": [figure._asdict() for figure in figures], **asdict(results.provenance())}
    write_text(directory / f"{name}.json", json.dumps(record, indent=2) + "\n")
    write_text(directory / f"{name}.md", "\n".join(lines) + "\n")
    print(f"written: {directory}/{name}.json, .md")
