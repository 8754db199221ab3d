"""Print the table of a sweep from its records: ``python -m experiments.table7 runs/table7-laptop-synthetic``.

``--published`` prints the paper's own numbers, read in the same way. Imports no torch.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from experiments.benchmark import table as benchmarks
from experiments.table7 import audit, claims, render, without_relatives
from experiments.table7.claims import Finding
from experiments.table7.rows import choose_shown, collect, problems, universes_of
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.storage.atomic import write_text

WIDTH = 132  # of what is printed where there is no terminal


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if options.published:
        console.print(render.published())
        _print_reading(console, claims.of_paper())
        return 0
    if options.verify and any(
        [_disagreements(place) for place in universes_of(options.directory) or [options.directory]]
    ):
        return 1
    rows = collect(options.directory)
    mismatches = problems(rows)
    for problem in mismatches:
        print(f"table: {problem}", file=sys.stderr)
    if mismatches and not options.partial:
        return 1
    if not any(row.results for row in rows):
        raise InputError(f"{options.directory}: no results in it")
    findings = claims.of_rows(rows)
    if options.verify:
        return _verify_table(options.directory, render.as_json(rows, findings))
    shown = choose_shown(rows)
    console.print(render.scores(shown), render.costs(shown))
    console.print(" ".join([render.caption(rows), *render.left_out(shown, rows)]), soft_wrap=False)
    if options.relatives:
        scores = without_relatives.scores(rows, options.relatives, options.below)
        console.print(render.scores_without_relatives(scores, options.below))
        write_text(options.directory / "table7-unrelated.json", without_relatives.as_json(scores, options.below))
    _print_reading(console, findings)
    write_text(options.directory / "table7.json", json.dumps(render.as_json(rows, findings), indent=2) + "\n")
    write_text(options.directory / "table7.csv", render.as_csv(rows))
    write_text(options.directory / "table7.md", render.as_markdown(rows, findings))
    for line in benchmarks.write(options.directory):
        print(line)
    print(f"written: {options.directory}/table7.md, .csv, .json")
    return 0


def _print_reading(console: Console, findings: list[Finding]) -> None:
    colours = {claims.SUPPORTED: "green", claims.CONTRADICTED: "red"}
    for finding in findings:
        colour = colours.get(finding.verdict, "yellow")
        console.print(f"\n[bold]{finding.claim}[/bold] [{colour}]{finding.verdict}[/{colour}]", highlight=False)
        console.print(Padding(Text(f"{finding.effect}.\n{finding.statistic}: {finding.evidence}"), (0, 0, 0, 2)))


def _disagreements(directory: Path) -> int:
    """Compute every score again from saved predictions, and count those that differ from their records."""
    scores = stages = wrong = 0
    for place, number, differences in audit.audit(directory):
        scores, stages, wrong = scores + number, stages + 1, wrong + len(differences)
        for difference in differences:
            print(f"verify: {place}: {difference}", file=sys.stderr)
    print(f"{scores} scores of {stages} stages computed again from their predictions: {wrong or 'no'} disagreements")
    return wrong


def _verify_table(directory: Path, expected: dict[str, object]) -> int:
    """Compare ``table7.json`` with what the records give; return 1 if they differ."""
    differences = audit.table(directory, expected)
    for difference in differences:
        print(f"verify: {difference}", file=sys.stderr)
    return int(bool(differences))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.table7", description="Print the table of a sweep.")
    parser.add_argument("directory", type=Path, nargs="?", help="of a sweep: one directory per row")
    parser.add_argument("--partial", action="store_true", help="print the table even if rows are missing")
    parser.add_argument("--verify", action="store_true", help="compute every score again from the saved predictions")
    parser.add_argument("--relatives", type=Path, help="of `proteinlm data leakage`: score on proteins without, too")
    parser.add_argument("--below", type=float, default=0.5, help="identity from which on a relative counts as close")
    parser.add_argument("--published", action="store_true", help="print the paper's own numbers instead")
    options = parser.parse_args(arguments)
    if options.directory is None and not options.published:
        parser.error("name the directory of a sweep, or --published")
    if options.directory and not options.directory.is_dir():
        raise InputError(f"{options.directory} is not a directory")
    if options.directory and options.relatives and universes_of(options.directory):
        raise InputError(f"--relatives takes the sweep of one universe, not {options.directory}")
    return options


if __name__ == "__main__":
    entry.command(main)
