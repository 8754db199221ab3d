"""Table 7 from result records alone: ``python -m experiments.table7 runs/table7-laptop-synthetic``. Imports no torch.

``--published`` prints the paper's own numbers, read in the same way.
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments.table7 import audit, claims, without_relatives
from experiments.table7.claims import Finding
from experiments.table7.published import BASELINES, COLUMNS, FORERUNNERS, PERPLEXITY, TABLE7
from experiments.table7.rows import PRETRAIN, SCRATCH, Cell, Row, collect, problems, shape_of
from proteinlm.errors import InputError
from proteinlm.records.results import Score
from proteinlm.storage.atomic import write_text

WIDTH = 132  # of what is printed where there is no terminal
COSTS: tuple[str, ...] = ("Parameters", "Full size", "Perplexity", "Held out", "Tokens", "FLOPs", "Hours")
SPLITS = {"Perplexity": "valid", "Held out": "holdout"}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if options.published:
        console.print(_published())
        _print_reading(console, claims.of_paper())
        return 0
    if options.verify and _disagreements(options.directory):
        return 1
    rows = collect(options.directory)
    found = problems(rows)
    for problem in found:
        print(f"table: {problem}", file=sys.stderr)
    if found and not options.partial:
        return 1
    if not any(row.results for row in rows):
        raise InputError(f"{options.directory}: no results in it")
    findings = claims.of_rows(rows)
    if options.verify:
        return _verify_table(options.directory, as_json(rows, findings))
    console.print(_scores(rows), _costs(rows))
    console.print(caption(rows), soft_wrap=False)
    if options.relatives:
        found = without_relatives.scores(rows, options.relatives, options.below)
        console.print(_unrelated(found, options.below))
        write_text(options.directory / "table7-unrelated.json", without_relatives.as_json(found, options.below))
    _print_reading(console, findings)
    write_text(options.directory / "table7.json", json.dumps(as_json(rows, findings), indent=2) + "\n")
    write_text(options.directory / "table7.csv", as_csv(rows))
    write_text(options.directory / "table7.md", as_markdown(rows, findings))
    print(f"written: {options.directory}/table7.md, .csv, .json")
    return 0


def caption(rows: list[Row]) -> str:
    """What was scaled, and what the numbers are."""
    first = next(row for row in rows if row.results)
    pretraining = first.results.get(PRETRAIN)
    parts = [f"{knob.replace('_', ' ')} / {by}" for knob, by in first.scale.items() if by > 1]
    shapes = f"Shapes scaled down: {', '.join(parts)}." if parts else "Shapes as in the paper."
    tuned = next((result for stage, result in first.results.items() if stage != PRETRAIN), pretraining)
    assert tuned
    seeds = f"{tuned.seeds} fine-tuning seed{'s' if tuned.seeds > 1 else ''}"
    numbers = [cell.score.n for column in COLUMNS if (cell := first.cells[column.key]).score]
    scored = f" of {min(numbers):,} to {max(numbers):,} proteins" if numbers else ""
    hours = "GPU-hours" if tuned.accelerator != "cpu" else "core-hours"
    others = "; TAPE's of its backbones" if any(row.baseline for row in rows) else ""
    return (
        f"{shapes} Scores with 95 % bootstrap intervals over the test sets{scored}, {seeds}; * the best of the ten rows in "
        "its column, or not distinguishable from it; in brackets the paper's number, for contacts by another definition "
        f"(legacy_precision_at_l5 is ours by that){others}. FLOPs: of training, without the tasks' heads. Hours: {hours} of "
        f"training, all stages. {tuned.precision}, {tuned.hardware}."
    )


def _scores(rows: list[Row]) -> Table:
    table = Table(title="Depth and width of protein language models", box=box.HORIZONTALS, show_lines=True)
    table.add_column("Model", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            Text.assemble(_short(cell), (f"\n{_interval(cell)}\n[{_paper(row, key)}]", "dim"))
            for key, cell in row.cells.items()
        )
        table.add_row(row.name.replace(SCRATCH, "scratch\n").replace("-layer", "\nlayer"), *cells)
    return table


def _costs(rows: list[Row]) -> Table:
    table = Table(title="What they cost", box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    shown = [title for title in COSTS if title != "Full size"]  # the name says it
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = dict(zip(COSTS, _cost_cells(row), strict=True))
        table.add_row(row.name, *(cells[title] for title in shown))
    return table


def _unrelated(found: without_relatives.Scores, below: float) -> Table:
    title = f"On test proteins without a relative of {below:.0%} identity in corpus or training split"
    table = Table(title=title, box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for name, scores in found.items():
        cells = (f"{s.value:.3f} ({s.n:,})" if (s := scores[column.key]) else "–" for column in COLUMNS)
        table.add_row(name, *cells)
    return table


def _disagreements(directory: Path) -> int:
    """Compute every score again from saved predictions; how many do not agree with their records."""
    scores = stages = wrong = 0
    for place, number, found in audit.audit(directory):
        scores, stages, wrong = scores + number, stages + 1, wrong + len(found)
        for problem in found:
            print(f"verify: {place}: {problem}", file=sys.stderr)
    print(f"{scores} scores of {stages} stages computed again from their predictions: {wrong or 'no'} disagreements")
    return wrong


def _verify_table(directory: Path, made: dict[str, object]) -> int:
    """1 if ``table7.json`` is not what the records give."""
    found = audit.table(directory, made)
    for problem in found:
        print(f"verify: {problem}", file=sys.stderr)
    return int(bool(found))


def _published() -> Table:
    table = Table(title="Table 7 of the paper", box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    for title in ("Parameters", *(column.title for column in COLUMNS)):
        table.add_column(title, justify="right")
    for name, values in TABLE7.items():
        table.add_row(name, f"{shape_of(name).parameters:,}", *(f"{value:.3f}" for value in values))
    return table


def _print_reading(console: Console, findings: list[Finding]) -> None:
    colours = {claims.SUPPORTED: "green", claims.CONTRADICTED: "red"}
    for claim, verdict, statistic, evidence in findings:
        colour = colours.get(verdict, "yellow")
        console.print(f"\n[bold]{claim}[/bold] [{colour}]{verdict}[/{colour}]", highlight=False)
        console.print(Padding(Text(f"{statistic}: {evidence}"), (0, 0, 0, 2)))


def as_markdown(rows: list[Row], findings: list[Finding]) -> str:
    titles = ("Model", *(column.title for column in COLUMNS))
    lines = ["| " + " | ".join(titles) + " |", "|:--|" + "--:|" * len(COLUMNS)]
    for row in rows:
        cells = [f"{_short(cell).strip()} ({_interval(cell)}) [{_paper(row, key)}]" for key, cell in row.cells.items()]
        lines.append("| " + " | ".join((row.name, *cells)) + " |")
    lines += ["", "| " + " | ".join(("Model", *COSTS)) + " |", "|:--|" + "--:|" * len(COSTS)]
    lines += ["| " + " | ".join((row.name, *_cost_cells(row))) + " |" for row in rows]
    said = [f"- **{claim}** {verdict}: {statistic}: {evidence}." for claim, verdict, statistic, evidence in findings]
    return "\n".join([*lines, "", caption(rows).replace("*", "\\*"), "", *said, ""])


def as_csv(rows: list[Row]) -> str:
    """One flat line per row."""
    output = io.StringIO()
    records = [_flat(row) for row in rows]
    writer = csv.DictWriter(output, records[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return output.getvalue()


def as_json(rows: list[Row], findings: list[Finding]) -> dict[str, object]:
    return {
        "caption": caption(rows),
        "rows": [_flat(row) for row in rows],
        "reading": [finding._asdict() for finding in findings],
    }


def _flat(row: Row) -> dict[str, object]:
    pretraining = row.results.get(PRETRAIN)
    record: dict[str, object] = {
        "row": row.name,
        "full_parameters": row.full.parameters,
        "parameters": row.parameters if row.results else None,
        "tokens": pretraining.tokens if pretraining else None,
        "flops": row.flops,
        "device_hours": row.device_hours,
        "published_perplexity": PERPLEXITY.get(row.name),
    }
    scores = {f"perplexity_{split}": row.perplexity(split) for split in SPLITS.values()}
    contact = row.results.get("contact")
    scores |= {key: cell.score for key, cell in row.cells.items()}
    scores["legacy_precision_at_l5"] = contact.score("contact", "test", "legacy_precision_at_l5") if contact else None
    for key, score in scores.items():
        record |= {key: score.value if score else None}
        record |= {f"{key}_low": score.low if score else None, f"{key}_high": score.high if score else None}
    record |= {f"{key}_tie": cell.tie for key, cell in row.cells.items()}
    return record | {f"{column.key}_published": _published_value(row, column.key) for column in COLUMNS}


def _published_value(row: Row, key: str) -> float | None:
    places = {column.key: place for place, column in enumerate(COLUMNS)}
    known = {**TABLE7, **BASELINES, **FORERUNNERS}
    return known[row.name][places[key]] if row.name in known else None


def _short(cell: Cell) -> str:
    if cell.value is None:
        return "missing"
    return f"{cell.value:.3f}{'*' if cell.tie else ' '}"


def _interval(cell: Cell) -> str:
    return _bounds(cell.score, 2)


def _bounds(score: Score | None, digits: int) -> str:
    if score is None or score.low is None or score.high is None:
        return ""
    joint = " to " if score.low < 0 else "–"
    return f"{score.low:.{digits}f}{joint}{score.high:.{digits}f}"


def _paper(row: Row, key: str) -> str:
    value = _published_value(row, key)
    digits = 2 if row.baseline else 3
    return "–" if value is None else f"{value:.{digits}f}"


def _cost_cells(row: Row) -> tuple[str, ...]:
    if not row.results:
        return ("missing", f"{row.full.parameters:,}", *[""] * (len(COSTS) - 2))
    pretraining = row.results.get(PRETRAIN)
    perplexities = [row.perplexity(split) for split in SPLITS.values()]
    return (
        f"{row.parameters:,}",
        f"{row.full.parameters:,}",
        *(f"{score.value:.2f} ({_bounds(score, 1)})" if score else "–" for score in perplexities),
        f"{pretraining.tokens / 1e6:,.2f} M" if pretraining else "–",
        f"{row.flops:.1e}",
        f"{row.device_hours:.3f}" if row.device_hours < 1 else f"{row.device_hours:,.1f}",
    )


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
    return options
