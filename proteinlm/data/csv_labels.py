"""Read a user's own labels: a CSV file of sequences and labels becomes the splits of ``task=custom``.

Files as FLIP and PBC publish them are read as they are: a CSV with the columns ``sequence``, ``target``, ``set`` and
``validation``, or FASTA with a target or a label file (`proteinlm.data.formats.biotrainer`).
"""

import csv
import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proteinlm.config import CsvDataConfig, CustomTaskConfig, DataConfig
from proteinlm.data import label_kinds
from proteinlm.data.formats.biotrainer import Row, is_fasta, read_labelled
from proteinlm.data.formats.compression import read_text
from proteinlm.data.formats.letters import Letters
from proteinlm.data.label_kinds import NAMED, NUMBER, RESIDUE_NUMBERS, residue_numbers
from proteinlm.data.similarity import clusters, leakage
from proteinlm.data.sources import Labelled
from proteinlm.errors import InputError

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"split", "splits", "set", "stage", "fold", "partition", "subset"}
"""Names of columns, in small letters, that may hold splits."""
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


def test_and_training(file: Path) -> tuple[leakage.Labelled, str]:
    """The proteins of a file to test on and to train on, and the fingerprint of the whole.

    Raises `InputError` where none is for the test.
    """
    labelled, _ = open_labels(CsvDataConfig(csv=str(file)), CustomTaskConfig())
    if leakage.TEST not in labelled.sizes:
        raise InputError(f"{file}: no protein is for the test")
    test, train = (
        [np.frombuffer(record["primary"].encode(), np.uint8) for record in labelled.records(split)]
        for split in (leakage.TEST, "train")
    )
    return leakage.Labelled(test, train), labelled.fingerprint


def read_rows(config: CsvDataConfig, task: CustomTaskConfig) -> LabelledRows:
    """Read the file that `config` names, in rows by their splits; raises `InputError` as `open_labels` does."""
    path = Path(config.csv).expanduser()
    letters = Letters(config.letters)
    rows, has_split, is_published, warnings = (
        _read_fasta(path, letters) if is_fasta(path) else _read(path, config, letters)
    )
    kind = label_kinds.kind_of(path, rows, task)
    classes = label_kinds.class_names(path, rows, kind, task)
    resolved = CustomTaskConfig(**{**vars(task), "kind": kind, "classes": classes})
    splits, how = _split(path, rows, config, has_split, is_published)
    label_kinds.require_variety(path, splits, kind)
    remarks = (
        label_kinds.description(resolved, task),
        *filter(None, [letters.summary()]),
        *warnings,
        *how,
        *label_kinds.warnings(splits, resolved, task),
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
    if len(label) < len(sequence) == len(cells[header.index(config.label)]) and not any(map(str.isdigit, label)):
        raise InputError(
            f"{config.label} {label!r} has blanks at its ends, which may be DSSP's loops: write C for them"
        )
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
