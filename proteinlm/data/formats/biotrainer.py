"""The FASTA files of biotrainer, in which FLIP and PBC are published: proteins with a target and a split in each header.

A header has the target of its protein, as in ``>id TARGET=0.3 SET=train VALIDATION=False``, or numbers for each of its
residues, separated by ``;``. Where no header has a target, the records have a letter for each residue instead, and the
residues are in ``sequences.fasta`` beside the file. A 0 in ``mask.fasta``, or in ``MASK=`` of the header, takes the label
from a residue.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from proteinlm.data.formats.compression import read_text
from proteinlm.errors import InputError

SEQUENCES, MASK = "sequences.fasta", "mask.fasta"
UNRESOLVED = "999"
"""Number of a residue without a measurement."""
UNKNOWN = "?"
"""Letter of a residue without a label."""
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
"""What ``SET`` may say, and what we call it."""
_ATTRIBUTE = re.compile(r"([A-Za-z]+)=(\S*)")
_TRUTHS = {"True": True, "true": True, "False": False, "false": False, "": False, "nan": False}


class Row(NamedTuple):
    """One labelled protein of a file."""

    line: int
    name: str
    sequence: str
    label: str
    """A class, a number, a letter for each residue, or numbers for each residue separated by ``;``."""
    split: str
    """``train``, ``valid`` or ``test``; empty where the file does not say."""


class Record(NamedTuple):
    """A record of a FASTA file whose lines may be anything."""

    line: int
    name: str
    attributes: dict[str, str]
    body: str


def is_fasta(path: Path) -> bool:
    """Whether the name of a file says that it is FASTA."""
    return bool({".fasta", ".fa", ".faa"} & {suffix.lower() for suffix in path.suffixes[-2:]})


def read_labelled(path: Path) -> list[Row]:
    """The labelled proteins of a file; of those without a ``SET`` the split is empty.

    Raises `InputError` with the file, the record and the attribute for what cannot be used: lengths that differ, a set
    that is none, a target or residues that are missing.
    """
    records = list(read_records(path))
    if not records:
        raise InputError(f"{path}: no FASTA records")
    with_target = [record for record in records if "TARGET" in record.attributes]
    if with_target:
        rows = [_row(path, record, record.body, record.attributes.get("TARGET", "")) for record in records]
    else:
        sequences, masks = _beside(path, SEQUENCES), _beside(path, MASK)
        if sequences is None:
            raise InputError(f"{path}: no header has a TARGET, and there is no {SEQUENCES} beside it with the residues")
        rows = [_row(path, record, _body(path, record, sequences, SEQUENCES), record.body) for record in records]
        if masks is not None:
            bodies = [_body(path, record, masks, MASK) for record in records]
            pairs = zip(rows, records, bodies, strict=True)
            rows = [_masked(path, record, row, mask, MASK) for row, record, mask in pairs]
    return [
        _masked(path, record, row, record.attributes["MASK"], "MASK") if "MASK" in record.attributes else row
        for row, record in zip(rows, records, strict=True)
    ]


def read_records(path: Path) -> Iterator[Record]:
    """The records of a FASTA file, plain or compressed, without a look at their letters."""
    text = read_text(path)
    header, begin, body = "", 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(">"):
            if begin:
                yield _record(path, begin, header, body)
            header, begin, body = line[1:], number, []
        elif line.strip():
            if not begin:
                raise InputError(f"{path}: line {number}: a sequence without header")
            body.append(line.strip())
    if begin:
        yield _record(path, begin, header, body)


def _record(path: Path, line: int, header: str, body: list[str]) -> Record:
    words = header.split()
    name = words[0] if words and not header[:1].isspace() else ""
    if not body:
        raise InputError(f"{path}: line {line} ({name}): a header without sequence")
    return Record(line, name, dict(_ATTRIBUTE.findall(header)), "".join(body))


def _row(path: Path, record: Record, sequence: str, label: str) -> Row:
    where = f"{path}: line {record.line} ({record.name})"
    if not label:
        raise InputError(f"{where}: no TARGET, where others have one")
    split = record.attributes.get("SET", "")
    if split.lower() not in ("", "nan", *SPLITS):
        raise InputError(f"{where}: SET is {split!r}, not one of train, val, test")
    said = SPLITS.get(split.lower(), "")
    validation = record.attributes.get("VALIDATION", "")
    if validation not in _TRUTHS:
        raise InputError(f"{where}: VALIDATION is {validation!r}, neither True nor False")
    if _TRUTHS[validation]:
        if said == "test":
            raise InputError(f"{where}: SET is 'test' and VALIDATION is 'True'")
        said = "valid"
    if ";" in label and label.count(";") + 1 != len(sequence):
        raise InputError(f"{where}: TARGET has {label.count(';') + 1} numbers for {len(sequence)} residues")
    return Row(record.line, record.name, sequence, label, said)


def _masked(path: Path, record: Record, row: Row, mask: str, source: str) -> Row:
    where = f"{path}: line {record.line} ({record.name})"
    by_residue = row.label.split(";") if ";" in row.label else list(row.label)
    if len(by_residue) != len(row.sequence):
        raise InputError(f"{where}: {len(by_residue)} labels for {len(row.sequence)} residues")
    if len(mask) != len(row.sequence) or set(mask) - {"0", "1"}:
        raise InputError(f"{where}: {source} is not a 0 or 1 for each of the {len(row.sequence)} residues")
    if ";" in row.label:
        return row._replace(
            label=";".join(UNRESOLVED if m == "0" else x for x, m in zip(by_residue, mask, strict=True))
        )
    return row._replace(label="".join(UNKNOWN if m == "0" else x for x, m in zip(by_residue, mask, strict=True)))


def _beside(path: Path, name: str) -> dict[str, str] | None:
    """The records of the file `name` beside `path`, plain or compressed, by their names; None if it is not there."""
    for file in (path.with_name(name), path.with_name(f"{name}.gz"), path.with_name(f"{name}.xz")):
        if file.is_file():
            return {record.name: record.body for record in read_records(file)}
    return None


def _body(path: Path, record: Record, bodies: dict[str, str], source: str) -> str:
    if record.name not in bodies:
        raise InputError(f"{path}: line {record.line} ({record.name}): not in {source}")
    if len(bodies[record.name]) != len(record.body):
        found = f"{len(record.body)} labels, {len(bodies[record.name])} letters in {source}"
        raise InputError(f"{path}: line {record.line} ({record.name}): {found}")
    return bodies[record.name]
