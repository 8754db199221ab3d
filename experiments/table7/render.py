"""The table of a sweep as text for a terminal, Markdown, CSV and JSON, from typed records alone. Imports no torch."""

import csv
import io
from math import isnan

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.table7 import without_relatives
from experiments.table7.claims import Finding
from experiments.table7.published import COLUMNS, PERPLEXITY, TABLE7, published_row
from experiments.table7.rows import PRETRAIN, SCRATCH, Cell, Row, shape_of
from proteinlm.records.results import Score

COSTS: tuple[str, ...] = ("Parameters", "Full size", "Perplexity", "Held out", "Tokens", "FLOPs", "Hours")
SPLITS = {"Perplexity": "valid", "Held out": "holdout"}


def caption(rows: list[Row]) -> str:
    """The text below the table: how shapes were scaled, and what the numbers are."""
    first = next(row for row in rows if row.results)
    pretraining = first.results.get(PRETRAIN)
    parts = [f"{knob.replace('_', ' ')} / {by}" for knob, by in first.scale.items() if by > 1]
    shapes = f"Shapes scaled down: {', '.join(parts)}." if parts else "Shapes as in the paper."
    tuned = next((result for stage, result in first.results.items() if stage != PRETRAIN), pretraining)
    assert tuned
    seeds = f"{tuned.seeds} fine-tuning seed{'s' if tuned.seeds > 1 else ''}"
    numbers = [cell.score.n for column in COLUMNS if (cell := first.cells[column.key]).score]
    scored = f" of {min(numbers):,} to {max(numbers):,} proteins" if numbers else ""
    universes = f" and over {len(first.universes)} universes" if first.universes else ""
    hours = "GPU-hours" if tuned.accelerator != "cpu" else "core-hours"
    others = (
        "; TAPE's of its backbones and of UniRep's weights" if any(row.baseline or row.given for row in rows) else ""
    )
    return (
        f"{shapes} Scores with 95 % bootstrap intervals over the test sets{scored}{universes}, {seeds}; * the best of the "
        "ten rows in its column, or not distinguishable from it; in brackets the paper's number, for contacts by another "
        f"definition (legacy_precision_at_l5 is ours by that){others}. FLOPs: of training, without the tasks' heads. Hours: "
        f"{hours} of training, all stages. {tuned.precision}, {tuned.hardware}."
    )


def left_out(shown: list[Row], rows: list[Row]) -> list[str]:
    """A sentence on the rows that are not shown, if there are any."""
    if len(shown) == len(rows):
        return []
    return [
        f"{len(shown)} of {len(rows):,} rows are shown: the paper's, TAPE's, and those that rank highest in a column. "
        "table7.csv has all."
    ]


def scores(rows: list[Row]) -> Table:
    table = Table(title="Depth and width of protein language models", box=box.HORIZONTALS, show_lines=True)
    table.add_column("Model", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for key, cell in row.cells.items():
            below = [_interval(cell), *([] if row.control else [f"[{_paper(row, key)}]"])]
            cells.append(Text.assemble(_short(cell), ("\n" + "\n".join(below), "dim")))
        table.add_row(row.name.replace(SCRATCH, "scratch\n").replace("-layer", "\nlayer"), *cells)
    return table


def costs(rows: list[Row]) -> Table:
    table = Table(title="What they cost", box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    shown = [title for title in COSTS if title != "Full size"]  # the name says it
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = dict(zip(COSTS, _cost_cells(row), strict=True))
        table.add_row(row.name, *(cells[title] for title in shown))
    return table


def scores_without_relatives(rows: without_relatives.Scores, below: float) -> Table:
    title = f"On test proteins without a relative of {below:.0%} identity in corpus or training split"
    table = Table(title=title, box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for name, scores in rows.items():
        cells = (f"{s.text()} ({s.n:,})" if (s := scores[column.key]) else "–" for column in COLUMNS)
        table.add_row(name, *cells)
    return table


def published() -> Table:
    table = Table(title="Table 7 of the paper", box=box.HORIZONTALS)
    table.add_column("Model", no_wrap=True)
    for title in ("Parameters", *(column.title for column in COLUMNS)):
        table.add_column(title, justify="right")
    for name, values in TABLE7.items():
        table.add_row(name, f"{shape_of(name).parameters:,}", *(f"{value:.3f}" for value in values))
    return table


def as_markdown(rows: list[Row], findings: list[Finding]) -> str:
    titles = ("Model", *(column.title for column in COLUMNS))
    lines = ["| " + " | ".join(titles) + " |", "|:--|" + "--:|" * len(COLUMNS)]
    for row in rows:
        cells = [
            f"{_short(cell).strip()} ({_interval(cell)})" + ("" if row.control else f" [{_paper(row, key)}]")
            for key, cell in row.cells.items()
        ]
        lines.append("| " + " | ".join((row.name, *cells)) + " |")
    lines += ["", "| " + " | ".join(("Model", *COSTS)) + " |", "|:--|" + "--:|" * len(COSTS)]
    lines += ["| " + " | ".join((row.name, *_cost_cells(row))) + " |" for row in rows]
    reading = [
        f"- **{each.claim}** {each.verdict}: {each.effect}. {each.statistic}: {each.evidence}." for each in findings
    ]
    return "\n".join([*lines, "", caption(rows).replace("*", "\\*"), "", *reading, ""])


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
        "full_parameters": row.full_parameters,
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
        record |= {key: score.value if score and not isnan(score.value) else None}
        record |= {f"{key}_low": score.low if score else None, f"{key}_high": score.high if score else None}
    record |= {f"{key}_tie": cell.tie for key, cell in row.cells.items()}
    return record | {f"{column.key}_published": _published_value(row, column.key) for column in COLUMNS}


def _published_value(row: Row, key: str) -> float | None:
    places = {column.key: place for place, column in enumerate(COLUMNS)}
    values = published_row(row.name, row.weights).values
    return values[places[key]] if values else None


def _short(cell: Cell) -> str:
    if cell.score is None:
        return "missing"
    return f"{cell.score.text()}{'*' if cell.tie else ' '}"


def _interval(cell: Cell) -> str:
    return _bounds(cell.score, 2)


def _bounds(score: Score | None, digits: int) -> str:
    if score is None or score.low is None or score.high is None:
        return ""
    joint = " to " if score.low < 0 else "–"
    return f"{score.low:.{digits}f}{joint}{score.high:.{digits}f}"


def _paper(row: Row, key: str) -> str:
    value = _published_value(row, key)
    digits = 3 if row.name in TABLE7 else 2
    return "–" if value is None else f"{value:.{digits}f}"


def _cost_cells(row: Row) -> tuple[str, ...]:
    if not row.results:
        return ("missing", f"{row.full_parameters:,}", *[""] * (len(COSTS) - 2))
    pretraining = row.results.get(PRETRAIN)
    perplexities = [row.perplexity(split) for split in SPLITS.values()]
    return (
        f"{row.parameters:,}",
        f"{row.full_parameters:,}",
        *(f"{score.value:.2f} ({_bounds(score, 1)})" if score else "–" for score in perplexities),
        f"{pretraining.tokens / 1e6:,.2f} M" if pretraining else "–",
        f"{row.flops:.1e}",
        f"{row.device_hours:.3f}" if row.device_hours < 1 else f"{row.device_hours:,.1f}",
    )
