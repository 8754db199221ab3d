"""ProteinGym's files: the reference table of its assays, the table of an assay, and the published scores of each assay.

A assays, M models.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteinlm.data.formats.table import Table, read_table
from proteinlm.errors import InputError

DEPTHS = ("Low", "Medium", "High")
"""Of an alignment: categories of its effective sequences per residue."""
TAXA = ("Human", "Eukaryote", "Prokaryote", "Virus")
SELECTIONS = ("Activity", "Binding", "Expression", "OrganismalFitness", "Stability")
"""What an assay selects for, coarsely."""
MUTANT, SEQUENCE, MEASURED, BINARY = "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"
"""Columns of the table of an assay; the binary one may be absent."""


class Assay(NamedTuple):
    """A row of the reference table: one deep mutational scan."""

    name: str
    file: str
    """The name of the file of its variants."""
    protein: str
    """The UniProt name. Scores of assays of one protein are averaged first."""
    taxon: str
    target: str
    """The residues of the wild type."""
    selection: str
    depth: str
    """One of `DEPTHS`; empty where there is no alignment."""
    variants: int


def read_reference(path: Path) -> dict[str, Assay]:
    """The assays by name, from ProteinGym's reference table (``DMS_substitutions.csv``).

    Raises `InputError` with the line and the column of a cell that cannot be used, and for an assay that comes twice.
    """
    table = read_table(path, "DMS_id")
    names = ("DMS_id", "DMS_filename", "UniProt_ID", "taxon", "target_seq")
    names += ("coarse_selection_type", "MSA_Neff_L_category", "DMS_total_number_mutants")
    columns = [table.column(name) for name in names]
    assays: dict[str, Assay] = {}
    for line, cells in zip(table.lines, zip(*columns, strict=True), strict=True):
        name, file, protein, taxon, target, selection, depth, variants = (cell.strip() for cell in cells)
        depth = depth[:1].upper() + depth[1:]  # the published code does so too
        for column, value, known in (
            ("taxon", taxon, TAXA),
            ("coarse_selection_type", selection, SELECTIONS),
            ("MSA_Neff_L_category", depth, ("", *DEPTHS)),
        ):
            if value not in known:
                raise InputError(
                    f"{path}: line {line}: {column} is {value!r}, not one of {', '.join(filter(None, known))}"
                )
        if not variants.isdecimal():
            raise InputError(f"{path}: line {line}: DMS_total_number_mutants is {variants!r}, not a number")
        if not name or name in assays:
            raise InputError(f"{path}: line {line}: DMS_id {name!r} {'came before' if name else 'is empty'}")
        assays[name] = Assay(name, file, protein, taxon, target, selection, depth, int(variants))
    return assays


class Variants(NamedTuple):
    """The variants of one assay, N of them."""

    table: Table
    mutant: list[str]
    """As in ``A24G:K30R``."""
    sequence: list[str]
    """Of each variant; empty where the file has no such column."""
    measured: np.ndarray
    """(N,) float64: higher is fitter."""
    is_fit: np.ndarray | None
    """(N,) bool: the measured score after the assay's cutoff, if the file has it."""


def read_assay(path: Path) -> Variants:
    """Read the table of one assay; raises `InputError` with the line and the column of a cell that is no number."""
    table = read_table(path, MUTANT)
    measured = _numbers(table, MEASURED)
    missing = np.flatnonzero(np.isnan(measured))
    if len(missing):
        raise InputError(f"{path}: line {table.lines[missing[0]]}: {MEASURED} is empty")
    is_fit = None
    if BINARY in table.names:
        flags = _numbers(table, BINARY)
        wrong = np.flatnonzero((flags != 0) & (flags != 1))
        if len(wrong):
            cell = table.column(BINARY)[wrong[0]]
            raise InputError(f"{path}: line {table.lines[wrong[0]]}: {BINARY} is {cell!r}, neither 0 nor 1")
        is_fit = flags == 1
    sequences = table.column(SEQUENCE) if SEQUENCE in table.names else [""] * len(table.rows)
    return Variants(table, table.column(MUTANT), sequences, measured, is_fit)


class Scores(NamedTuple):
    """The score of each model on each assay."""

    assays: list[str]
    models: list[str]
    values: np.ndarray
    """(A, M) float64; nan where a model has none."""


def read_scores(path: Path, reference: dict[str, Assay]) -> Scores:
    """Read a published table of scores by assay (``DMS_substitutions_Spearman_DMS_level.csv``).

    Its own columns on the assay (number of mutants, selection type, protein, depth, taxon) must agree with `reference`.
    Raises `InputError` with the line and the column where they do not, and for an assay that `reference` lacks.
    """
    table = read_table(path, "DMS ID")
    about = {
        "Number of Mutants": lambda assay: str(assay.variants),
        "Selection Type": lambda assay: assay.selection,
        "UniProt ID": lambda assay: assay.protein,
        "MSA_Neff_L_category": lambda assay: assay.depth,
        "Taxon": lambda assay: assay.taxon,
    }
    assays = table.column("DMS ID")
    for line, name in zip(table.lines, assays, strict=True):
        if name not in reference:
            raise InputError(f"{path}: line {line}: DMS ID {name!r} has no row in the reference table")
    if len(set(assays)) < len(assays):
        raise InputError(f"{path}: an assay comes twice in the column DMS ID")
    for column, value in about.items():
        for line, name, cell in zip(table.lines, assays, table.column(column), strict=True):
            if cell != value(reference[name]):
                raise InputError(
                    f"{path}: line {line}: {column} is {cell!r}, where the reference table has {value(reference[name])!r}"
                )
    models = [name for name in table.names if name != "DMS ID" and name not in about]
    values = [_numbers(table, model) for model in models]
    return Scores(assays, models, np.stack(values, axis=1))


def _numbers(table: Table, column: str) -> np.ndarray:
    """The cells of a column (N,) float64, nan for an empty one."""
    numbers = np.full(len(table.rows), np.nan)
    for place, (line, cell) in enumerate(zip(table.lines, table.column(column), strict=True)):
        if not cell.strip():
            continue
        try:
            numbers[place] = float(cell)
        except ValueError:
            numbers[place] = math.inf
        if not math.isfinite(numbers[place]):
            raise InputError(f"{table.path}: line {line}: {column} is {cell!r}, no finite number")
    return numbers
