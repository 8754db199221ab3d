"""``python -m experiments.report runs/table7-laptop-synthetic``: the page about a sweep, ``report.html`` in it."""

import argparse
import sys
from pathlib import Path

from experiments.benchmark.table import columns
from experiments.report import benchmarks, page
from experiments.table7.rows import collect_some, problems
from proteinlm.launch import entry
from proteinlm.records.run_directory import RESULT
from proteinlm.storage.atomic import write_text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description="Make the page about a sweep.")
    parser.add_argument("directory", type=Path, help="of a sweep, one directory per row, or of benchmarks")
    parser.add_argument("--output", type=Path, help="the page; by default report.html in it")
    options = parser.parse_args(arguments)
    file, name = options.output or options.directory / "report.html", options.directory.resolve().name
    shown = benchmarks.of(columns(options.directory), options.directory)
    if shown.columns and not any(options.directory.rglob(RESULT)):
        write_text(file, page.of_benchmarks(shown, name))
        print(f"written: {file}")
        return 0
    rows = collect_some(options.directory)
    found = problems(rows)
    for problem in found:
        print(f"report: {problem}", file=sys.stderr)
    write_text(file, page.of(rows, found, name, shown))
    print(f"written: {file}")
    return 0


if __name__ == "__main__":
    entry.command(main)
