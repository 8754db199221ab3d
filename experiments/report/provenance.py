"""Where the numbers come from: code, data, machine, and what was made smaller than in the paper."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.report.numbers import Number, number, record, size
from experiments.table7.published import COLUMNS
from experiments.table7.rows import PRETRAIN, Row
from proteinlm.planner import PFAM
from proteinlm.records.results import CONFIG, Result

TEST_PROTEINS = {
    "precision_at_l5": "40",
    "fluorescence": "27,217",
    "remote_homology": "718",
    "q3": "513",
    "stability": "12,851",
}
"""Of TAPE's test splits, by the first column that is scored on each."""


class Fact(NamedTuple):
    """A line of a list: what, and what it is; `where` is the file and field of plain text."""

    what: str
    said: str | Number
    where: str = ""


def first(rows: list[Row]) -> tuple[Row, Result]:
    """A row and the result of its first stage."""
    row = next(row for row in rows if row.results)
    return row, row.results.get(PRETRAIN) or next(iter(row.results.values()))


def config(row: Row, stage: str) -> Any:
    """The resolved config of a stage; empty if it is not there."""
    file = row.directory / stage / CONFIG
    return OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}


def data(rows: list[Row]) -> str:
    """The data of the sweep in words."""
    row, result = first(rows)
    found = config(row, result.stage).get("data", {})
    if found.get("name") == "files":
        return f"the proteins in {Path(str(found.get('root', ''))).name or 'files'}"
    return "a made-up universe of proteins" if found.get("name") == "synthetic" else "unnamed data"


def facts(rows: list[Row]) -> list[Fact]:
    """Code, data and machine; where rows differ, all values."""
    every = [result for row in rows for result in row.results.values()]
    anywhere = "*/*/result.json"
    row, result = first(rows)
    attempts = [f"{row.name}/{stage}" for row in rows for stage in row.results if _attempts(row, stage) > 1]
    return [
        Fact("Commit", _all(each.commit for each in every), f"{anywhere}: commit"),
        Fact("Source fingerprint", _all(each.source for each in every), f"{anywhere}: source"),
        Fact("Data", data(rows), f"{row.name}/{result.stage}/{CONFIG}: data"),
        Fact(
            "Data fingerprint",
            _all(each.data for each in every if each.stage == PRETRAIN),
            f"*/{PRETRAIN}/result.json: data",
        ),
        Fact("Hardware", _all(each.hardware for each in every), f"{anywhere}: hardware"),
        Fact("Precision", _all(each.precision for each in every), f"{anywhere}: precision"),
        Fact(
            "Processes × threads",
            _all(f"{each.processes} × {each.threads}" for each in every),
            f"{anywhere}: processes, threads",
        ),
        Fact(
            "Fine-tuning seeds", _all(str(each.seeds) for each in every if each.stage != PRETRAIN), f"{anywhere}: seeds"
        ),
        Fact("Finished stages", f"{len(every)}", anywhere),
        Fact("Stages that were interrupted and went on", ", ".join(attempts) or "none", "*/*/stamp.json: attempts"),
    ]


def versions(rows: list[Row]) -> list[tuple[str, str]]:
    """Packages and their versions, over all stages."""
    every = [result for row in rows for result in row.results.values()]
    names = dict.fromkeys(name for result in every for name in result.versions)
    return [(name, _all(result.versions.get(name, "none") for result in every)) for name in names]


def scaled_down(rows: list[Row]) -> list[tuple[str, Number | str, Number | str]]:
    """What, how it was here, and how it is in the paper or its data."""
    row, result = first(rows)
    file = record(row, result.stage)
    found: list[tuple[str, Number | str, Number | str]] = []
    for knob, by in result.scale.items():
        field = f"scale.{knob}"
        divided = number(by, file, field, 0)
        found.append((f"{knob.replace('_', ' ').capitalize()} divided by", divided, "1"))
    largest = max(
        (row for row in rows if PRETRAIN in row.results), key=lambda row: row.results[PRETRAIN].parameters, default=None
    )
    if largest:
        counted = largest.results[PRETRAIN].parameters
        there = number(
            largest.full.parameters, "the name of the row", "formula of hidden size and layers", 2, 1e9, " G"
        )
        found.append(("Parameters of the largest row", size(counted, record(largest, PRETRAIN), "parameters"), there))
    if result.stage == PRETRAIN:
        found.append(("Tokens of pretraining", size(result.tokens, file, "tokens"), "not published"))
        found.append(("Passes over the corpus", number(result.epochs, file, "epochs", 2), "not published"))
        corpus = size(result.tokens / result.epochs, file, "tokens / epochs")
        found.append(("Tokens of the corpus", corpus, size(PFAM.tokens, "proteinlm/planner/plan.py", "PFAM.tokens")))
    for column in COLUMNS:
        score = row.cells[column.key].score
        if score and column.key in TEST_PROTEINS:
            there = record(row, column.stage)
            place = row.results[column.stage].scores.index(score)
            task = column.stage.removesuffix("_q3").replace("_", " ")
            counted = number(score.n, there, f"scores[{place}].n", 0)
            found.append((f"Test proteins, {task}", counted, TEST_PROTEINS[column.key]))
    return found


def _attempts(row: Row, stage: str) -> int:
    file = row.directory / stage / "stamp.json"
    return len(json.loads(file.read_text())) if file.is_file() else 0


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or "unknown"
