"""One table over several universes: ``python -m experiments.table7.universes DIR DIR DIR --output DIR``.

Each score is the mean over the sweeps, and its interval holds both sources of spread: test proteins and fine-tuning seeds
within a universe, and universes. The output is a directory of results like that of a sweep, so the table, the figures and
the page are made of it in the same way. Imports no torch.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from math import exp, isnan
from pathlib import Path

from experiments.table7 import __main__ as table7
from experiments.table7.audit import PERPLEXITY
from experiments.table7.rows import UNIVERSES, Row, collect_some, problems
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records import predictions
from proteinlm.records.bootstrap import Sample, bootstrap_over
from proteinlm.records.results import Result
from proteinlm.storage.atomic import write_text


def merge(directories: Sequence[Path], output: Path) -> None:
    """Write the results of each stage over all of these sweeps, which must have the same rows."""
    tables = [[row for row in collect_some(directory) if row.results] for directory in directories]
    for directory, rows in zip(directories, tables, strict=True):
        if found := problems(rows):
            raise InputError(f"{directory}: {found[0]}")
        if [(row.name, [*row.results]) for row in rows] != [(row.name, [*row.results]) for row in tables[0]]:
            raise InputError(f"{directory} has other rows or stages than {directories[0]}")
    for same in zip(*tables, strict=True):
        for stage in same[0].results:
            home = output / same[0].name / stage
            home.mkdir(parents=True, exist_ok=True)
            _merged([row.results[stage] for row in same], _samples(same, stage)).save(home)
    places = [os.path.relpath(directory, output) for directory in directories]
    write_text(output / UNIVERSES, json.dumps(places, indent=2) + "\n")


def _samples(rows: Sequence[Row], stage: str) -> list[dict[tuple[str, str], Sample]]:
    return [predictions.load(row.directory / stage) for row in rows]


def _merged(results: Sequence[Result], samples: Sequence[dict[tuple[str, str], Sample]]) -> Result:
    """One result: scores are means, costs are sums, counts of a single run are those of the first."""
    scores = []
    for score in results[0].scores:
        here = [each[score.split, score.metric] for each in samples]
        value, (low, high) = sum(each.estimate() for each in here) / len(here), bootstrap_over(here)
        if score.metric == PERPLEXITY:
            value, low, high = exp(value), exp(low), exp(high)
        low, high = (None if isnan(bound) else bound for bound in (low, high))
        scores.append(replace(score, value=value, low=low, high=high, n=sum(each.n for each in here)))
    return replace(
        results[0],
        scores=scores,
        seconds=sum(result.seconds for result in results),
        flops=sum(result.flops for result in results),
        data="+".join(result.data for result in results),
        start="+".join(result.start for result in results),
        predictions="",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.table7.universes", description="One table over several universes."
    )
    parser.add_argument("directories", type=Path, nargs="+", help="of finished sweeps, two or more")
    parser.add_argument("--output", type=Path, required=True, help="where the table over all of them goes")
    options = parser.parse_args(arguments)
    if len(options.directories) < 2:
        raise InputError("one sweep is no table over universes: name two or more")
    merge(options.directories, options.output)
    return table7.main([str(options.output)])


if __name__ == "__main__":
    entry.command(main)
