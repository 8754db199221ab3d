"""Read a user's own labels: a CSV file of sequences and labels becomes the splits of ``task=custom``.

Files as FLIP and PBC publish them are read as they are: a CSV with the columns ``sequence``, ``target``, ``set`` and
``validation``, or FASTA with a target or a label file (`proteinlm.data.formats.biotrainer`).
"""

import csv
import dataclasses
import hashlib
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proteinlm.config import CsvDataConfig, CustomTaskConfig, DataConfig
from proteinlm.config.tasks import KINDS
from proteinlm.data.formats.biotrainer import UNKNOWN, UNRESOLVED, Row, is_fasta, read_labelled
from proteinlm.data.formats.compression import read_text
from proteinlm.data.formats.letters import Letters
from proteinlm.data.similarity import clusters
from proteinlm.data.sources import Labelled
from proteinlm.errors import InputError

SPLITS = ("train", "valid", "test")
CLASS, NUMBER, RESIDUES, RESIDUE_NUMBERS = KINDS
NAMED = 3
"""Examples in a message."""
MISSING = {"nan", "na", "n/a", "#n/a", "none", "null", "-", UNKNOWN}
"""What spreadsheets and programs write where there is no label, in small letters."""
ONE_SIDED = 0.9
"""Share of one class from which on a warning says what guessing it scores."""
SPLIT_NAMES = {"split", "splits", "set", "stage", "fold", "partition", "subset"}
"""Names of columns, in small letters, that may hold splits."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


FLIP = ("target", "set", "validation")
"""Columns of FLIP's files that stand for ``label`` and ``split``; the last is true in rows for validation."""


class LabelledRows(NamedTuple):
    """The rows of a file by their splits, and the task with its kind and its classes filled in."""

    path: Path
    splits: dict[str, list[Row]]
    task: CustomTaskConfig
    remarks: tuple[str, ...]
    """What the user should know of them."""


def open_labels(config: DataConfig, task: CustomTaskConfig) -> tuple[Labelled, CustomTaskConfig]:
    """Read the file that `config` names: its splits, and `task` with its kind and its classes filled in.

    Raises `InputError` in one line with the file, and the line in it, for whatever cannot be used.
    """
    if not isinstance(config, CsvDataConfig):
        raise InputError(f"task=custom learns from data.csv=FILE, not from data={config.name}")
    path, splits, resolved, remarks = read_rows(config, task)
    kind = resolved.kind
    records = {split: [_record(row, kind) for row in mine] for split, mine in splits.items()}
    content = hashlib.sha256(kind.encode())
    for split, mine in splits.items():
        content.update("\n".join([split, *(f"{row.sequence},{row.label}" for row in mine)]).encode())
    return Labelled(
        origins={split: f"{path}, {split}" for split in splits},
        sizes={split: len(mine) for split, mine in splits.items()},
        records=records.__getitem__,
        fingerprint=content.hexdigest()[:12],
        remarks=remarks,
    ), resolved


def read_rows(config: CsvDataConfig, task: CustomTaskConfig) -> LabelledRows:
    """Read the file that `config` names, in rows by their splits; raises `InputError` as `open_labels` does."""
    path = Path(config.csv).expanduser()
    letters = Letters(config.letters)
    rows, has_split, is_published, warnings = (
        _read_fasta(path, letters) if is_fasta(path) else _read(path, config, letters)
    )
    kind = kind_of(path, rows, task)
    resolved = CustomTaskConfig(**{**vars(task), "kind": kind, "classes": class_names(path, rows, kind, task)})
    splits, how = _split(path, rows, config, has_split, is_published)
    _require_variety(path, splits, kind)
    remarks = (
        _description(resolved, task),
        *filter(None, [letters.summary()]),
        *warnings,
        *how,
        *_warnings(splits, resolved, task),
    )
    return LabelledRows(path, splits, resolved, remarks)


class _Read(NamedTuple):
    """What a file says."""

    rows: list[Row]
    has_split: bool
    is_published: bool
    """Whether the file is laid out as FLIP and PBC publish theirs, which may have no proteins for validation."""
    warnings: list[str]


def _read_fasta(path: Path, letters: Letters) -> _Read:
    """The rows of a FASTA file of biotrainer."""
    rows = []
    for row in read_labelled(path):
        try:
            rows.append(row._replace(sequence=letters.clean(row.sequence)))
        except InputError as error:
            raise InputError(f"{path}: line {row.line} ({row.name}): {error}") from None
    has_split = any(row.split for row in rows)
    return _without_split(path, rows) if has_split else _Read(rows, False, True, [])


def _without_split(path: Path, rows: list[Row]) -> _Read:
    """Leave out the rows without a split, of a file in which others have one."""
    kept = [row for row in rows if row.split]
    if len(kept) == len(rows):
        return _Read(rows, True, True, [])
    return _Read(kept, True, True, [f"{path}: {len(rows) - len(kept):,} proteins have no set, and are left out"])


def _read(path: Path, config: CsvDataConfig, letters: Letters) -> _Read:
    """The rows of a CSV file, their sequences in capitals.

    Raises `InputError` with the line of the first that cannot be used.
    """
    text = read_text(path)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        if not header:
            raise InputError("nothing in it")
        is_flip = _is_flips(header, config)
        if is_flip:
            config = dataclasses.replace(config, label=FLIP[0], split=FLIP[1])
        for knob in ("sequence", "label", "split"):
            _check_column(knob, getattr(config, knob), header)
        for cells in lines:
            if cells:
                rows.append(_row(lines.line_num, header, cells, config, letters))
    except (InputError, csv.Error) as error:
        where = f", line {lines.line_num}" if lines.line_num else ""
        raise InputError(f"{path}{where}: {error}") from None
    if not rows:
        raise InputError(f"{path}: no proteins in it")
    if is_flip:
        return _without_split(path, rows)
    return _Read(rows, config.split in header, False, _unused_split_columns(path, header, config))


def _is_flips(header: list[str], config: CsvDataConfig) -> bool:
    """Whether the columns are those of FLIP, and the config names no others."""
    is_default = (config.label, config.split) == (CsvDataConfig.label, CsvDataConfig.split)
    return is_default and {config.sequence, *FLIP} <= set(header) and not {config.label, config.split} & set(header)


def _check_column(knob: str, column: str, header: list[str]) -> None:
    """Refuse a column that `header` lacks; only that of the splits may be absent, if nobody named it."""
    if column in header or (knob == "split" and column in ("", CsvDataConfig.split)):
        return
    alike = [name for name in header if name.casefold() == column.casefold()]
    advice = f"did you mean data.{knob}={alike[0]}?" if alike else f"name it by data.{knob}="
    raise InputError(f"no column {column!r} among {', '.join(header)}: {advice}")


def _unused_split_columns(path: Path, header: list[str], config: CsvDataConfig) -> list[str]:
    """A warning of columns that may hold splits, where none is used."""
    if config.split in header or not config.split:
        return []
    alike = [name for name in header if name.casefold() in SPLIT_NAMES - {config.sequence, config.label, config.id}]
    if not alike:
        return []
    return [
        f"warning: {path}: column {alike[0]!r} may say the splits, but is not used, and they are drawn: "
        f"data.split={alike[0]} uses it, data.split= draws them without this warning"
    ]


def _row(line: int, header: list[str], cells: list[str], config: CsvDataConfig, letters: Letters) -> Row:
    if len(cells) != len(header):
        raise InputError(f"{len(cells)} cells, not {len(header)} as in the first line")
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    sequence, label = values[config.sequence], values[config.label]
    if not sequence:
        raise InputError(f"no {config.sequence}")
    sequence = letters.clean(sequence)
    if not label:
        raise InputError(f"no {config.label}")
    split = values.get(config.split)
    if config.split == FLIP[1] and FLIP[2] in values:
        split = _flips_split(values)
    elif split is not None and split not in SPLITS:
        raise InputError(f"{config.split} is {split!r}, not one of {', '.join(SPLITS)}")
    return Row(line, values.get(config.id, ""), sequence, label, split or "")


def _flips_split(values: dict[str, str]) -> str:
    """The split of a row of FLIP; empty for one that FLIP leaves out."""
    said, validation = values[FLIP[1]], values[FLIP[2]].lower()
    if said not in ("", "nan", "train", "test"):
        raise InputError(f"{FLIP[1]} is {said!r}, neither train nor test")
    if validation not in ("true", "false", "", "nan"):
        raise InputError(f"{FLIP[2]} is {values[FLIP[2]]!r}, neither True nor False")
    if validation == "true" and said != "train":
        raise InputError(f"{FLIP[1]} is {said!r} and {FLIP[2]} is True")
    return "valid" if validation == "true" else "" if said == "nan" else said


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


def _split(
    path: Path, rows: list[Row], config: CsvDataConfig, has_split: bool, is_published: bool
) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each split, and what is to be said of them."""
    remarks = []
    if has_split:
        named = [row.split for row in rows]
        if is_published and "valid" not in named and "train" in named:
            rows, remark = _with_validation(path, rows, config)
            named = [row.split for row in rows]
            remarks.append(remark)
        for split in SPLITS[:2]:
            if split not in named:
                raise InputError(f"{path}: no row whose {config.split} is {split}")
        if twice := _in_several(rows):
            first = ", ".join(
                f"lines {one.line} ({one.split}) and {two.line} ({two.split})" for one, two in twice[:NAMED]
            )
            remarks.append(f"warning: {path}: {len(twice):,} proteins are in several splits, as {first}")
    else:
        found = clusters.clusters([row.sequence for row in rows], config.identity)
        try:
            named = clusters.draw_splits(found, config.valid, config.test, config.seed).tolist()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        why = f"no column {config.split!r}" if config.split else "data.split is empty"
        remarks.append(
            f"{why}: drew {len(set(found.tolist())):,} clusters of sequences, "
            f"data.identity={config.identity:g} and data.seed={config.seed}"
        )
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS if split in named}
    for row, split in zip(rows, named, strict=True):
        splits[split].append(row)
    return splits, remarks


def _with_validation(path: Path, rows: list[Row], config: CsvDataConfig) -> tuple[list[Row], str]:
    """Draw proteins for validation from those for training, in whole clusters; and what is to be said of it."""
    train = [row for row in rows if row.split == "train"]
    found = clusters.clusters([row.sequence for row in train], config.identity)
    try:
        drawn = iter(clusters.draw_splits(found, config.valid, 0.0, config.seed).tolist())
    except InputError as error:
        raise InputError(f"{path}: nothing is for validation, and of the training proteins {error}") from None
    split = [row._replace(split=next(drawn)) if row.split == "train" else row for row in rows]
    count = sum(row.split == "valid" for row in split)
    return split, (
        f"{path}: nothing is for validation: drew {count:,} of {len(train):,} training proteins, in whole clusters of "
        f"similar sequences, data.identity={config.identity:g} and data.seed={config.seed}"
    )


def _in_several(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows of one sequence in two splits, the first of each sequence."""
    first: dict[str, Row] = {}
    pairs = {}
    for row in rows:
        other = first.setdefault(row.sequence, row)
        if other.split != row.split:
            pairs.setdefault(row.sequence, (other, row))
    return list(pairs.values())


def _record(row: Row, kind: str) -> dict[str, Any]:
    """A protein by the names of fields that tasks know."""
    name = f"{row.name}, line {row.line}" if row.name else f"line {row.line}"
    labels = {NUMBER: lambda: float(row.label), RESIDUE_NUMBERS: lambda: residue_numbers(row)}
    return {"id": name, "primary": row.sequence, "label": labels.get(kind, lambda: row.label)()}


def _description(resolved: CustomTaskConfig, asked: CustomTaskConfig) -> str:
    """What is learnt, in words."""
    names = ", ".join(resolved.classes[:10]) + (", ..." if len(resolved.classes) > 10 else "")
    description = {
        CLASS: f"one of {len(resolved.classes)} classes of each protein ({names})",
        NUMBER: "a number of each protein",
        RESIDUES: f"one of {len(resolved.classes)} classes of each residue ({names})",
        RESIDUE_NUMBERS: "a number of each residue",
    }[resolved.kind]
    return f"labels: {description}" + (f"; task.kind={'|'.join(KINDS)} says otherwise" if asked.kind == "auto" else "")


def _require_variety(path: Path, splits: dict[str, list[Row]], kind: str) -> None:
    """Refuse a training split of one label, and numbers to select by of which no two differ."""
    counts = {split: _counted(splits[split], kind) for split in SPLITS[:2]}
    if len(counts["train"]) < 2:
        raise InputError(f"{path}: all training labels are {_named(counts['train'], kind)}: nothing to learn")
    if kind in (NUMBER, RESIDUE_NUMBERS) and len(counts["valid"]) < 2:
        raise InputError(
            f"{path}: all {len(splits['valid']):,} valid labels are {_named(counts['valid'], kind)}: no rank correlation "
            f"says which weights are best"
        )


def _warnings(splits: dict[str, list[Row]], task: CustomTaskConfig, asked: CustomTaskConfig) -> list[str]:
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
