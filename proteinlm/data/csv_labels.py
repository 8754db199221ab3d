"""A user's own labels: a CSV file of sequences and labels becomes the splits of ``task=custom``."""

import csv
import hashlib
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from proteinlm.config import CsvDataConfig, CustomTaskConfig, DataConfig
from proteinlm.config.tasks import KINDS
from proteinlm.data.formats.compression import read_blocks
from proteinlm.data.formats.letters import Letters
from proteinlm.data.similarity import clusters
from proteinlm.data.sources import Labelled
from proteinlm.errors import InputError

SPLITS = ("train", "valid", "test")
CLASS, NUMBER, RESIDUES = KINDS
UNKNOWN = "?"
"""Letter of a residue without a label."""
NAMED = 3
"""Examples in a message."""


class Row(NamedTuple):
    """One line of the file."""

    line: int
    name: str
    sequence: str
    label: str
    split: str
    """Empty where the file has no such column."""


def opened(config: DataConfig, task: CustomTaskConfig) -> tuple[Labelled, CustomTaskConfig]:
    """The splits of the file, and the task with its kind and its classes settled.

    `InputError` in one line with the file, and the line in it, for whatever cannot be used.
    """
    if not isinstance(config, CsvDataConfig):
        raise InputError(f"task=custom learns from data.csv=FILE, not from data={config.name}")
    path = Path(config.csv).expanduser()
    letters = Letters(config.letters)
    rows = read(path, config, letters)
    kind = kind_of(path, rows, task)
    settled = CustomTaskConfig(**{**vars(task), "kind": kind, "classes": classes(path, rows, kind, task)})
    splits, how = _split(path, rows, config)
    records = {split: [_record(row, kind) for row in mine] for split, mine in splits.items()}
    content = hashlib.sha256(kind.encode())
    for split, mine in splits.items():
        content.update("\n".join([split, *(f"{row.sequence},{row.label}" for row in mine)]).encode())
    return Labelled(
        origins={split: f"{path}, {split}" for split in splits},
        sizes={split: len(mine) for split, mine in splits.items()},
        records=records.__getitem__,
        fingerprint=content.hexdigest()[:12],
        remarks=(_what(settled, task), *filter(None, [letters.summary()]), *how, *_untaught(splits, settled)),
    ), settled


def read(path: Path, config: CsvDataConfig, letters: Letters) -> list[Row]:
    """The rows of a file, their sequences in capitals; `InputError` with the line of the first that cannot be used."""
    try:
        text = b"".join(read_blocks(path, lambda raw: None)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8, at byte {error.start}") from None
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        if not header:
            raise InputError("nothing in it")
        for knob in ("sequence", "label"):
            if (column := getattr(config, knob)) not in header:
                raise InputError(f"no column {column!r} among {', '.join(header)}: name it by data.{knob}=")
        for cells in lines:
            if cells:
                rows.append(_row(lines.line_num, header, cells, config, letters))
    except (InputError, csv.Error) as error:
        where = f", line {lines.line_num}" if lines.line_num else ""
        raise InputError(f"{path}{where}: {error}") from None
    if not rows:
        raise InputError(f"{path}: no proteins in it")
    return rows


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
    if split is not None and split not in SPLITS:
        raise InputError(f"{config.split} is {split!r}, not one of {', '.join(SPLITS)}")
    return Row(line, values.get(config.id, ""), sequence, label, split or "")


def kind_of(path: Path, rows: list[Row], task: CustomTaskConfig) -> str:
    """What the labels are; `InputError` if they are not all of `task.kind`, or of what most of them seem to be.

    Labels as long as their sequences are of residues, unless they are numbers with anything but digits in them.
    """
    if task.kind != "auto":
        kind = task.kind
    elif all(_fits(row) for row in rows) and (not all(map(_is_number, rows)) or all(r.label.isdigit() for r in rows)):
        kind = RESIDUES
    elif 2 * sum(map(_is_number, rows)) > len(rows):
        kind = NUMBER
    else:
        kind = RESIDUES if 2 * sum(map(_fits, rows)) > len(rows) else CLASS
    for row in rows:
        how = f"(task.kind={CLASS} takes labels as names)" if task.kind == "auto" else f"(task.kind={kind})"
        if kind == NUMBER and not _is_number(row):
            raise InputError(f"{path}, line {row.line}: label {row.label!r} is no finite number, as others are {how}")
        if kind == RESIDUES and not _fits(row):
            lengths = f"{len(row.label)} letters for {len(row.sequence)} residues"
            raise InputError(f"{path}, line {row.line}: label has {lengths}, where others have one for each {how}")
    return kind


def _is_number(row: Row) -> bool:
    try:
        return math.isfinite(float(row.label))
    except ValueError:
        return False


def _fits(row: Row) -> bool:
    return len(row.label) == len(row.sequence)


def classes(path: Path, rows: list[Row], kind: str, task: CustomTaskConfig) -> list[str]:
    """The names of the classes: those of the task, or those that occur."""
    if kind == NUMBER:
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


def _split(path: Path, rows: list[Row], config: CsvDataConfig) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each split, and what is to be said of them."""
    remarks = []
    if rows[0].split:
        named = [row.split for row in rows]
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
            named = clusters.drawn(found, config.valid, config.test, config.seed).tolist()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        remarks.append(
            f"no column {config.split!r}: drew {len(set(found.tolist())):,} clusters of sequences, "
            f"data.identity={config.identity:g} and data.seed={config.seed}"
        )
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS if split in named}
    for row, split in zip(rows, named, strict=True):
        splits[split].append(row)
    return splits, remarks


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
    return {"id": name, "primary": row.sequence, "label": float(row.label) if kind == NUMBER else row.label}


def _what(settled: CustomTaskConfig, asked: CustomTaskConfig) -> str:
    """What is learnt, in words."""
    names = ", ".join(settled.classes[:10]) + (", ..." if len(settled.classes) > 10 else "")
    said = {
        CLASS: f"one of {len(settled.classes)} classes of each protein ({names})",
        NUMBER: "a number of each protein",
        RESIDUES: f"one of {len(settled.classes)} classes of each residue ({names})",
    }[settled.kind]
    return f"labels: {said}" + (f"; task.kind={'|'.join(KINDS)} says otherwise" if asked.kind == "auto" else "")


def _untaught(splits: dict[str, list[Row]], task: CustomTaskConfig) -> list[str]:
    """A warning of classes that no training protein has."""
    if task.kind == NUMBER:
        return []
    seen: Counter[str] = Counter()
    for row in splits["train"]:
        seen.update(row.label if task.kind == RESIDUES else (row.label,))
    missing = [name for name in task.classes if name not in seen]
    return [f"warning: no training protein has the label {', '.join(missing[:10])}"] if missing else []
