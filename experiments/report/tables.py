"""The tables of the page: the ten rows, Tables 1 to 6 of the paper with ours beside them, and plans beside measurements."""

import json
from dataclasses import dataclass
from math import log

from experiments.report.numbers import (
    PLACES,
    PUBLISHED,
    Estimate,
    Number,
    cell,
    estimate,
    number,
    published,
    record,
    size,
    summed,
)
from experiments.table7.published import COLUMNS, TABLE1, TABLE7, TABLE_COLUMNS, TABLES
from experiments.table7.rows import PRETRAIN, SCRATCH, Row
from proteinlm.errors import InputError
from proteinlm.records.results import Result
from proteinlm.records.run_directory import PLAN

LARGEST, BILLION, MEDIUM = (
    "hidden-3072-layer-24-head-16",
    "hidden-2048-layer-24-head-16",
    "hidden-1024-layer-16-head-16",
)
"""The paper's models of 3 B, 1.2 B and 200 M parameters."""
METRICS = {
    "precision_at_l5_separation_6": "precision of the L/5 most confident pairs at least 6 apart,",
    "accuracy": "accuracy",
    "spearman": "Spearman's rank correlation",
}


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    control: bool
    publisher: str
    """Whose the published numbers are."""
    cells: list[tuple[Estimate | None, bool, Number | None]]
    """For each column our score, whether it is the best or a tie with it, and the paper's."""
    parameters: Number | None
    tokens: Number | None
    perplexity: Estimate | None
    hours: Number | None


def lines(rows: list[Row]) -> list[Line]:
    return [_line(row) for row in rows]


def _line(row: Row) -> Line:
    cells = [(cell(row, one.key), row.cells[one.key].tie, published(row, one.key)) for one in COLUMNS]
    pretraining, score = row.results.get(PRETRAIN), row.perplexity("valid")
    return Line(
        name=row.name,
        control=row.control,
        publisher="paper" if row.name in TABLE7 else "TAPE",
        cells=cells,
        parameters=_parameters(row, pretraining),
        tokens=size(pretraining.tokens, record(row, PRETRAIN), "tokens") if pretraining else None,
        perplexity=estimate(row, pretraining, score, 2, 1) if pretraining and score else None,
        hours=summed(row, "device_seconds", 3600, 3) if row.results else None,
    )


def _parameters(row: Row, pretraining: Result | None) -> Number | None:
    """Of the model with its language-model head; of weights of others, with the smallest head of a task."""
    if pretraining:
        return size(pretraining.parameters, record(row, PRETRAIN), "parameters")
    if not row.given or not row.results:
        return None
    smallest = min(row.results.values(), key=lambda result: result.parameters)
    return size(smallest.parameters, record(row, smallest.stage), "parameters")


@dataclass(frozen=True)
class Small:
    """One of the paper's Tables 1 to 6, with ours beside it."""

    number: int
    title: str
    heads: list[str]
    lines: list[tuple[str, list[Estimate | Number | None], bool]]
    """Model, its numbers, and whether they are ours."""
    note: str = ""


def first(rows: list[Row]) -> Small:
    """Table 1: loss and perplexity on masked residues."""
    shown: list[tuple[str, list[Estimate | Number | None], bool]] = []
    for model, values in TABLE1.items():
        found = [number(value, PUBLISHED, f"TABLE1[{model!r}][{place}]") for place, value in enumerate(values)]
        shown.append((model, list(found), False))
    for row in rows:
        score = row.perplexity("valid")
        if row.name in (BILLION, LARGEST) and score:
            whole = estimate(row, row.results[PRETRAIN], score, 3, 2)
            loss = number(log(score.value), whole.value.file, f"log of {whole.value.field}")
            shown.append((f"ours, {row.name}", [loss, whole], True))
    note = "The paper's on TAPE's validation proteins; ours on those of this sweep's data."
    return Small(1, "Masked-residue loss and perplexity", ["Loss", "Perplexity"], shown, note)


def downstream(rows: list[Row]) -> list[Small]:
    """Tables 2 to 6: one downstream task each."""
    titles = ("Contact prediction", "Remote homology", "Secondary structure", "Fluorescence", "Stability")
    by_name = {row.name: row for row in rows}
    made = []
    for (place, published_scores), title in zip(TABLES.items(), titles, strict=True):
        column = COLUMNS[PLACES[TABLE_COLUMNS[place]]]
        shown: list[tuple[str, list[Estimate | Number | None], bool]] = [
            (model, [number(value, PUBLISHED, f"TABLES[{place}][{model!r}]", 2)], False)
            for model, value in published_scores.items()
        ]
        for name in (MEDIUM, LARGEST, SCRATCH + MEDIUM, SCRATCH + LARGEST):
            if name in by_name and (found := cell(by_name[name], column.key)):
                shown.append((f"ours, {name}", [found], True))
        note = f"Ours: {METRICS[column.metric]} on {column.split.replace('_', ' ')}."
        made.append(Small(place, title, [column.title], shown, note))
    return made


@dataclass(frozen=True)
class Planned:
    """What the planner said of a row's pretraining, and what came of it."""

    name: str
    parameters: tuple[Number, Number]
    """By the formula, and as counted in the model."""
    memory: tuple[Number, Number | None]
    speed: tuple[tuple[Number, Number] | None, Number]
    """Tokens per second: the band that was planned, where the hardware's peak is known, and the measured rate."""
    work: Number
    """FLOP/s that the measured time comes to."""


def plan_rows(rows: list[Row]) -> list[Planned]:
    return [_planned(row) for row in rows if row.name in TABLE7 and (row.directory / PRETRAIN / PLAN).is_file()]


def _planned(row: Row) -> Planned:
    file, name = row.directory / PRETRAIN / PLAN, f"{row.name}/{PRETRAIN}/{PLAN}"
    try:
        plan, result = json.loads(file.read_text()), row.results[PRETRAIN]
        memory, peak = sum(plan["memory"]["planned"].values()), plan["memory"]["measured"]
        band, speed = plan["tokens_per_second"]["planned"], plan["tokens_per_second"]["measured"]
        field = "tokens_per_second"
        speeds = band and (size(band[0], name, f"{field}.planned[0]"), size(band[1], name, f"{field}.planned[1]"))
        return Planned(
            row.name,
            (
                number(row.built.parameters, record(row, PRETRAIN), "formula of hidden_size and num_layers", 0),
                number(result.parameters, record(row, PRETRAIN), "parameters", 0),
            ),
            (
                number(memory, name, "sum of memory.planned", 2, 1e9, " GB"),
                None if peak is None else number(peak, name, "memory.measured", 2, 1e9, " GB"),
            ),
            (
                speeds,
                number(speed, name, f"{field}.measured", 0),
            ),
            size(result.flops / max(result.seconds, 1e-9), record(row, PRETRAIN), "flops / seconds"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not a plan of this version ({error})") from None
