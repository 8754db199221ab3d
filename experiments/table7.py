"""Table 7 from result records alone: ``python -m experiments.table7 runs/table7-laptop-synthetic``. Imports no torch."""

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from experiments.published import TABLE7
from proteinlm import launch, results
from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.files import write_text
from proteinlm.results import Result, Score

PERPLEXITIES = {"valid": "Perplexity (95 %)", "holdout": "of held-out families (95 %)"}


class Row(NamedTuple):
    """One line of the table."""

    name: str
    full_parameters: int
    result: Result | None

    def score(self, split: str) -> Score | None:
        return self.result.score("masked_language_model", split, "perplexity") if self.result else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.table7", description="Print the table of a sweep.")
    parser.add_argument("directory", type=Path, help="of a sweep: one directory per row")
    parser.add_argument("--partial", action="store_true", help="print the table even if rows are missing")
    options = parser.parse_args(arguments)
    rows = collect(options.directory)
    problems = find_problems(rows)
    for problem in problems:
        print(f"table: {problem}", file=sys.stderr)
    if problems and not options.partial:
        return 1
    Console(width=None if sys.stdout.isatty() else 140).print(render(rows))
    print(caption(rows))
    write_text(options.directory / "table7.json", json.dumps(as_records(rows), indent=2) + "\n")
    write_text(options.directory / "table7.csv", as_csv(rows))
    write_text(options.directory / "table7.md", as_markdown(rows))
    print(f"written: {options.directory}/table7.md, .csv, .json")
    return 0


def collect(directory: Path) -> list[Row]:
    """The ten rows in the paper's order, with what `directory` holds of them."""
    found = {result.row: result for result in results.load_all(directory) if result.stage == "pretrain"}
    return [Row(name, _shape(name).parameters, found.get(name)) for name in TABLE7]


def find_problems(rows: list[Row]) -> list[str]:
    """Why these rows do not make one table: missing ones, or results that cannot be compared."""
    problems = [f"row {row.name} has no result" for row in rows if row.result is None]
    present = [row.result for row in rows if row.result]
    for what in ("source", "data"):
        values = sorted({getattr(result, what) for result in present})
        if len(values) > 1:
            problems.append(f"rows differ in their {what} fingerprint: {', '.join(values)}")
    return problems


def render(rows: list[Row]) -> Table:
    table = Table(title="Depth and width of protein language models")
    table.add_column("Model", no_wrap=True)
    for title in ("Parameters", "full size", *PERPLEXITIES.values(), "Tokens", "Seconds"):
        table.add_column(title, justify="right")
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def as_markdown(rows: list[Row]) -> str:
    titles = ("Model", "Parameters", "full size", *PERPLEXITIES.values(), "Tokens", "Seconds")
    lines = ["| " + " | ".join(titles) + " |", "|:--|" + "--:|" * (len(titles) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(rows)]
    return "\n".join([*lines, "", caption(rows), ""])


def as_csv(rows: list[Row]) -> str:
    output = io.StringIO()
    records = as_records(rows)
    writer = csv.DictWriter(output, records[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return output.getvalue()


def as_records(rows: list[Row]) -> list[dict[str, object]]:
    """One flat record per row."""
    records = []
    for row in rows:
        result = row.result
        record: dict[str, object] = {
            "row": row.name,
            "full_parameters": row.full_parameters,
            "parameters": result.parameters if result else None,
            "tokens": result.tokens if result else None,
            "flops": result.flops if result else None,
            "seconds": result.seconds if result else None,
        }
        for split in PERPLEXITIES:
            score = row.score(split)
            record[f"perplexity_{split}"] = score.value if score else None
            record[f"perplexity_{split}_low"] = score.low if score else None
            record[f"perplexity_{split}_high"] = score.high if score else None
        records.append(record)
    return records


def caption(rows: list[Row]) -> str:
    """What was scaled, and what the numbers are."""
    present = [row.result for row in rows if row.result]
    if not present:
        return "No results."
    scale = present[0].scale
    parts = [f"{knob.replace('_', ' ')} / {by}" for knob, by in scale.items() if by > 1]
    shapes = "Shapes as in the paper." if not parts else f"Shapes scaled down: {', '.join(parts)}."
    return (
        f"{shapes} Perplexity over masked residues with 95 % intervals over proteins (n = {_sizes(rows)}); "
        f"seed {present[0].seed}, {present[0].precision}, {present[0].hardware}."
    )


def _cells(rows: list[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            f"{row.result.parameters:,}" if row.result else "missing",
            f"{row.full_parameters:,}",
            *(_with_interval(row.score(split)) for split in PERPLEXITIES),
            f"{row.result.tokens:,}" if row.result else "",
            f"{row.result.seconds:.0f}" if row.result else "",
        )
        for row in rows
    ]


def _with_interval(score: Score | None) -> str:
    if score is None:
        return ""
    if score.low is None or score.high is None:
        return f"{score.value:.2f}"
    return f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def _sizes(rows: list[Row]) -> str:
    scores = next([row.score(split) for split in PERPLEXITIES] for row in rows if row.result)
    return " and ".join(f"{score.n:,}" for score in scores if score)


def _shape(name: str) -> ModelConfig:
    _, hidden, _, layers, _, heads = name.split("-")
    return ModelConfig(int(hidden), int(layers), int(heads))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        launch.fail(str(error))
