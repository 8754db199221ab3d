"""A model's scores of each of ProteinGym's assays, kept beside its averages, by which two models are compared.

Two averages are of the same proteins, so their difference is known better than either: proteins are drawn for both at once.
Imports no torch.
"""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from math import isnan
from pathlib import Path

import numpy as np

from experiments.benchmark.aggregation import Difference, difference
from proteinlm.data.formats.proteingym import Assay
from proteinlm.data.formats.table import read_table
from proteinlm.errors import InputError
from proteinlm.storage.atomic import write_text

FILE = "scores_by_assay.csv"
MEASURE = "spearman"
NAMES = ("DMS_id", "UniProt_ID", "coarse_selection_type")
NORMAL = 1.96
"""Standard errors to each side of a 95 % interval."""


def save(directory: Path, scores: Sequence[tuple[Assay, float]]) -> None:
    """Write the Spearman's correlation of each assay, nan where it is undefined."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*NAMES, MEASURE])
    writer.writerows([assay.name, assay.protein, assay.selection, value] for assay, value in scores)
    write_text(directory / FILE, text.getvalue())


def load(directory: Path) -> list[tuple[Assay, float]] | None:
    """What `save` wrote; None of a run that left nothing, as of earlier versions."""
    file = directory / FILE
    if not file.is_file():
        return None
    table = read_table(file, MEASURE)
    try:
        rows = zip(*(table.column(name) for name in (*NAMES, MEASURE)), strict=True)
        return [
            (Assay(name, "", protein, "", "", selection, "", 0), float(value))
            for name, protein, selection, value in rows
        ]
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}") from None


def differences(scores: Mapping[str, list[tuple[Assay, float]] | None]) -> dict[str, Difference]:
    """The average of the best model less that of each other one, by its name.

    Empty where a model's scores are not there, or are of other assays.
    """
    kept = {name: own for name, own in scores.items() if own}
    assays = {tuple(assay.name for assay, _ in own) for own in kept.values()}
    if len(kept) < len(scores) or len(assays) != 1:
        return {}
    values = {name: np.array([value for _, value in own]) for name, own in kept.items()}
    compared = [assay for assay, _ in next(iter(kept.values()))]
    best = next(iter(values))
    for name in values:
        if difference(compared, values[name], values[best]).value > 0:
            best = name
    return {name: difference(compared, values[best], own) for name, own in values.items() if name != best}


def is_tie(found: Difference) -> bool:
    """Whether the 95 % interval of a difference has 0 in it; never of one without an interval."""
    return abs(found.value) <= NORMAL * found.error


def line(best: str, name: str, found: Difference) -> str:
    """A difference in words."""
    reach = NORMAL * found.error
    interval = "" if isnan(reach) else f" ({found.value - reach:.3f} to {found.value + reach:.3f})"
    return f"- {best} less {name}: {found.value:.3f}{interval}"
