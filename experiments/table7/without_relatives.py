"""The table's scores on test proteins without a close relative among what was learnt from, from saved predictions."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from experiments.table7.audit import recompute
from experiments.table7.published import COLUMNS
from experiments.table7.rows import Row
from proteinlm.data.similarity import leakage
from proteinlm.data.similarity.leakage import Relatives
from proteinlm.errors import InputError
from proteinlm.records.results import Score

DATASETS = {
    "contact": "proteinnet",
    "secondary_structure_q3": "secondary_structure",
    "secondary_structure_q8": "secondary_structure",
}
"""Names of the records, where a stage is called otherwise."""

Scores = dict[str, dict[str, Score | None]]
"""By row and column; None where fewer than two proteins are left."""


def scores(rows: list[Row], file: Path, below: float) -> Scores:
    """Scores on the proteins whose closest relative in `file` has less than `below` identity."""
    relatives = leakage.load(file)
    if relatives.unsearched:
        print(f"warning: {file}: there was no {' and no '.join(relatives.unsearched)} to search", file=sys.stderr)
    return {row.name: {key: _score(row, key, relatives, below) for key in row.cells} for row in rows}


def as_json(found: Scores, below: float) -> str:
    """The scores, for a file."""
    rows = {name: {key: asdict(s) if s else None for key, s in of.items()} for name, of in found.items()}
    return json.dumps({"below": below, "rows": rows}, indent=2) + "\n"


def _score(row: Row, key: str, relatives: Relatives, below: float) -> Score | None:
    column = next(column for column in COLUMNS if column.key == key)
    if row.cells[key].score is None:
        return None
    name = (DATASETS.get(column.stage, column.stage), column.split)
    if relatives.data.get(name[0]) != row.results[column.stage].data:
        raise InputError(f"relatives of {' '.join(name)} are not those of the proteins that {row.name} was scored on")
    (sample,) = row.samples(key)
    left = sample.only(relatives.closest[name][sample.record] < below)
    return recompute(column.stage, column.split, column.metric, left) if left.n > 1 else None
