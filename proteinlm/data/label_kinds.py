"""Judge what labels are: their kind, their classes, and whether anything can be learnt from them."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np

from proteinlm.config import CustomTaskConfig
from proteinlm.config.tasks import KINDS
from proteinlm.data.formats.biotrainer import UNKNOWN, UNRESOLVED, Row
from proteinlm.errors import InputError

CLASS, NUMBER, RESIDUES, RESIDUE_NUMBERS = KINDS
NAMED = 3
"""Examples in a message."""
MISSING = {"nan", "na", "n/a", "#n/a", "none", "null", "-", UNKNOWN}
"""What spreadsheets and programs write where there is no label, in small letters."""
ONE_SIDED = 0.9
"""Share of one class from which on a warning says what guessing it scores."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


def kind_of(path: Path, rows: list[Row], task: CustomTaskConfig) -> str:
    """What the labels are; `InputError` if they are not all of `task.kind`, or of what most of them seem to be.

    Labels as long as their sequences are of residues, unless they are numbers with anything but digits in them. Where all
    sequences have one length, so may the names of classes, as those of alleles do: then `InputError` asks for the kind,
    unless hardly a label comes twice. A label that says that there is none is an `InputError`, unless it is one of
    `task.classes`.
    """
    if task.kind not in (RESIDUES, RESIDUE_NUMBERS):
        _refuse_missing(path, rows, task)
    if task.kind != "auto":
        kind = task.kind
    elif all(";" in row.label and _number_count(row) == len(row.sequence) for row in rows):
        kind = RESIDUE_NUMBERS
    elif all(_fits(row) for row in rows) and (not all(map(_is_number, rows)) or all(r.label.isdigit() for r in rows)):
        kind = RESIDUES
        varied = len(rows) > NAMED and 2 * len({row.label for row in rows}) > len(rows)
        if len({len(row.sequence) for row in rows}) == 1 and not varied:
            raise InputError(
                f"{path}: all labels, as {rows[0].label!r}, are as long as their sequences, and all sequences have one "
                f"length: say task.kind={CLASS} for names of classes, or task.kind={RESIDUES} for a letter of each residue"
            )
    elif 2 * sum(_is_number(row) or _has_decimal_comma(row) for row in rows) > len(rows):
        kind = NUMBER
    else:
        kind = RESIDUES if 2 * sum(map(_fits, rows)) > len(rows) else CLASS
    for row in rows:
        how = f"(task.kind={CLASS} takes labels as names)" if task.kind == "auto" else f"(task.kind={kind})"
        if kind == NUMBER and _has_decimal_comma(row):
            raise InputError(
                f"{path}, line {row.line}: label {row.label!r} has a comma: write numbers with a point {how}"
            )
        if kind == NUMBER and not _is_number(row):
            raise InputError(f"{path}, line {row.line}: label {row.label!r} is no finite number, as others are {how}")
        if kind == RESIDUE_NUMBERS:
            _check_numbers(path, row)
        if kind == RESIDUES and not _fits(row):
            lengths = f"{len(row.label)} letters for {len(row.sequence)} residues"
            raise InputError(f"{path}, line {row.line}: label has {lengths}, where others have one for each {how}")
    return kind


def _refuse_missing(path: Path, rows: list[Row], task: CustomTaskConfig) -> None:
    missing = [row for row in rows if row.label.casefold() in MISSING and row.label not in task.classes]
    if missing:
        raise InputError(
            f"{path}, line {missing[0].line}: label {missing[0].label!r} says that there is none, as do {len(missing):,} of "
            f"{len(rows):,}: take these lines out, or list it in task.classes if it is the name of a class"
        )


def _number_count(row: Row) -> int:
    return row.label.count(";") + 1


def _check_numbers(path: Path, row: Row) -> None:
    if _number_count(row) != len(row.sequence):
        raise InputError(
            f"{path}, line {row.line}: label has {_number_count(row)} numbers for {len(row.sequence)} residues"
        )
    for position, cell in enumerate(row.label.split(";"), start=1):
        if not _is_finite(cell):
            raise InputError(f"{path}, line {row.line}: {cell!r} of residue {position} is no finite number")


def residue_numbers(row: Row) -> np.ndarray:
    """The number of each residue, (L,) float32, nan where it has none."""
    values = np.array([float(cell) for cell in row.label.split(";")], dtype=np.float32)
    return np.where(values == float(UNRESOLVED), np.float32(np.nan), values)


def _has_decimal_comma(row: Row) -> bool:
    return bool(_DECIMAL_COMMA.fullmatch(row.label))


def _is_number(row: Row) -> bool:
    return _is_finite(row.label)


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _fits(row: Row) -> bool:
    return len(row.label) == len(row.sequence)


def class_names(path: Path, rows: list[Row], kind: str, task: CustomTaskConfig) -> list[str]:
    """The names of the classes: those of the task, or those that occur."""
    if kind in (NUMBER, RESIDUE_NUMBERS):
        return []
    occurring = set().union(*(row.label if kind == RESIDUES else {row.label} for row in rows)) - (
        {UNKNOWN} if kind == RESIDUES else set()
    )
    if task.classes:
        for row in rows:
            for name in row.label if kind == RESIDUES else (row.label,):
                if name not in task.classes and (kind, name) != (RESIDUES, UNKNOWN):
                    raise InputError(f"{path}, line {row.line}: label {name!r} is not one of task.classes")
        return task.classes
    if len(occurring) < 2:
        raise InputError(f"{path}: all labels are {', '.join(map(repr, occurring or UNKNOWN))}: nothing to learn")
    if kind == CLASS and len(rows) > NAMED and len(occurring) == len(rows):
        raise InputError(f"{path}: every protein has a class of its own, as {rows[0].label!r}: not the label's column?")
    return sorted(occurring)


def description(resolved: CustomTaskConfig, asked: CustomTaskConfig) -> str:
    """What is learnt, in words."""
    names = ", ".join(resolved.classes[:10]) + (", ..." if len(resolved.classes) > 10 else "")
    description = {
        CLASS: f"one of {len(resolved.classes)} classes of each protein ({names})",
        NUMBER: "a number of each protein",
        RESIDUES: f"one of {len(resolved.classes)} classes of each residue ({names})",
        RESIDUE_NUMBERS: "a number of each residue",
    }[resolved.kind]
    return f"labels: {description}" + (f"; task.kind={'|'.join(KINDS)} says otherwise" if asked.kind == "auto" else "")


def require_variety(path: Path, splits: dict[str, list[Row]], kind: str) -> None:
    """Refuse a training split of one label, and numbers to select by of which no two differ."""
    counts = {split: _counted(splits[split], kind) for split in ("train", "valid")}
    if len(counts["train"]) < 2:
        raise InputError(f"{path}: all training labels are {_named(counts['train'], kind)}: nothing to learn")
    if kind in (NUMBER, RESIDUE_NUMBERS) and len(counts["valid"]) < 2:
        raise InputError(
            f"{path}: all {len(splits['valid']):,} valid labels are {_named(counts['valid'], kind)}: no rank correlation "
            f"says which weights are best"
        )


def warnings(splits: dict[str, list[Row]], task: CustomTaskConfig, asked: CustomTaskConfig) -> list[str]:
    """Warnings of labels that teach little, or about which a score says little."""
    counts = {split: _counted(rows, task.kind) for split, rows in splits.items()}
    if task.kind in (NUMBER, RESIDUE_NUMBERS):
        values = set().union(*counts.values())
        warnings = [
            f"warning: all {split} labels are {_named(count, task.kind)}: their rank correlation is undefined"
            for split, count in counts.items()
            if len(count) < 2
        ]
        if asked.kind == "auto" and len(values) == 2:
            both = " and ".join(sorted(values))
            warnings.append(f"warning: the numbers are only {both}: task.kind={CLASS} learns them as two classes")
        return warnings
    what = "residue" if task.kind == RESIDUES else "protein"
    warnings = [
        f"warning: no {'training' if split == 'train' else split} {what} has the label {', '.join(missing[:10])}"
        for split, count in counts.items()
        if (missing := [name for name in task.classes if name not in count])
    ]
    for split, count in ((split, count) for split, count in counts.items() if count):
        (name, most), total = count.most_common(1)[0], count.total()
        if most >= ONE_SIDED * total:
            share = f"{most:,} of {total:,} ({most / total:.1%})"
            warnings.append(f"warning: {split}: {share} labels are {name!r}: always guessing it has that accuracy")
    return warnings


def _counted(rows: list[Row], kind: str) -> Counter[str]:
    """How often each label occurs; equal numbers are one label, however they are written."""
    counts: Counter[str] = Counter()
    for row in rows:
        if kind == NUMBER:
            counts[repr(float(row.label) + 0.0)] += 1  # + 0.0: minus zero is zero
        elif kind == RESIDUE_NUMBERS:
            counts.update(cell for cell in row.label.split(";") if float(cell) != float(UNRESOLVED))
        else:
            counts.update(row.label.replace(UNKNOWN, "") if kind == RESIDUES else (row.label,))
    return counts


def _named(count: Counter[str], kind: str) -> str:
    name = next(iter(count), UNKNOWN)
    return name if kind in (NUMBER, RESIDUE_NUMBERS) else repr(name)
