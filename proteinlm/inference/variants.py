"""Reads variants of a protein from a table, as spreadsheets and ProteinGym write it: ``A24G:K30R`` in one column.

L residues of the wild type.
"""

import codecs
import csv
import re
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteinlm import vocabulary
from proteinlm.data.formats.compression import read_blocks
from proteinlm.errors import InputError

DELIMITERS = (",", "\t", ";")
SEQUENCE = "mutated_sequence"
"""The column that ProteinGym's tables have beside the mutations."""
WILDTYPE = ("", "WT", "wt", "_wt")
"""The names of the variant without mutations."""
_MUTATION = re.compile(r"([A-Za-z])(-?\d+)([A-Za-z])")


class Mutation(NamedTuple):
    """A residue that replaces another."""

    position: int
    """The place in the wild type, from 0."""
    before: int
    """The token of the wild type."""
    after: int
    """The token of the variant."""


class UnknownVariant(InputError):
    """A variant that is no list of substitutions, such as ``K2*`` or ``p.Lys2Ala``."""


class Table(NamedTuple):
    """The rows of a file of comma, tab or semicolon separated values."""

    path: Path
    names: list[str]
    """The names of the columns."""
    rows: list[list[str]]
    lines: list[int]
    """The number of the line where each row begins, from 1."""
    delimiter: str

    def column(self, name: str) -> list[str]:
        """The cells of a column; raises `InputError` if there is none of this name, or several."""
        if self.names.count(name) != 1:
            count = "several columns" if name in self.names else "no column"
            raise InputError(f"{self.path}: {count} {name}, but {', '.join(self.names)}")
        return [row[self.names.index(name)] for row in self.rows]


def read_table(path: Path, column: str) -> Table:
    """Read the table in `path`, plain, .gz or .xz; its delimiter is the one that finds `column` among the names.

    Lines without content are passed over, and so are rows of empty cells at the end, which spreadsheets leave there.
    Raises `InputError` for a file that cannot be read, and a row with more or fewer fields than there are names.
    """
    text = _text(path)
    delimiter, names = _header(text, column)
    reader, line = csv.reader(StringIO(text, newline=""), delimiter=delimiter), 1
    numbered: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if row:
                numbered.append((line, row))
            line = reader.line_num + 1  # a cell may have several lines
    except csv.Error as error:
        raise InputError(f"{path}: line {line}: {error}") from None
    body = numbered[1:]
    while body and not any(cell.strip() for cell in body[-1][1]):
        body.pop()
    for line, row in body:
        if len(row) != len(names):
            raise InputError(f"{path}: line {line}: {len(row)} fields under {len(names)} names")
    return Table(path, names, [row for _, row in body], [line for line, _ in body], delimiter)


def mutations(variant: str, letters: np.ndarray, first: int) -> list[Mutation]:
    """The mutations that `variant` names, of the wild type `letters` (L,) uint8, whose first residue is `first`.

    Raises `UnknownVariant` for what is no substitution by a letter of the vocabulary, and `InputError` for a position
    outside the wild type, another residue there than it has, and two mutations of one position.
    """
    by_position: dict[int, tuple[str, Mutation]] = {}
    for name in [] if variant.strip() in WILDTYPE else re.split(r"[:;,\s]+", variant.strip()):
        match = _MUTATION.fullmatch(name)
        if match is None:
            raise UnknownVariant(f"{name!r} is no mutation such as A24G")
        before, position, after = match[1].upper(), int(match[2]) - first, match[3].upper()
        if after not in vocabulary.RESIDUES:
            raise UnknownVariant(f"{name}: letter {after!r} is not one of {vocabulary.RESIDUES}")
        if not 0 <= position < len(letters):
            raise InputError(f"{name} is outside residues {first} to {first + len(letters) - 1} of the wild type")
        if chr(letters[position]) != before:
            raise InputError(f"{name}, but the wild type has {chr(letters[position])} there")
        if position in by_position:
            raise InputError(f"{by_position[position][0]} and {name} are two mutations of one position")
        by_position[position] = name, Mutation(position, vocabulary.IDS[before], vocabulary.IDS[after])
    return [mutation for _, mutation in by_position.values()]


def check_sequence(sequence: str, letters: np.ndarray, changes: list[Mutation], first: int) -> None:
    """Raise `InputError` if `sequence` is not the wild type `letters` (L,) uint8 with the mutations `changes`."""
    expected = letters.copy()
    for mutation in changes:
        expected[mutation.position] = ord(vocabulary.TOKENS[mutation.after])
    found = np.frombuffer(sequence.strip().upper().encode(), np.uint8)
    if len(found) != len(expected):
        raise InputError(f"{SEQUENCE} has {len(found)} residues, the wild type {len(expected)}")
    if len(different := np.flatnonzero(found != expected)):
        place = int(different[0])
        raise InputError(
            f"{SEQUENCE} has {chr(found[place])} as residue {place + first}, "
            f"the wild type with these mutations {chr(expected[place])}"
        )


def _text(path: Path) -> str:
    try:
        content = b"".join(read_blocks(path, lambda raw: None))
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # "Unicode text" of spreadsheets
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8: save it as CSV in UTF-8") from None
    return text


def _header(text: str, column: str) -> tuple[str, list[str]]:
    """The delimiter of a table, and the names of its columns."""
    headers = []
    for delimiter in DELIMITERS:
        try:
            rows = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
            headers.append((delimiter, next((row for row in rows if row), [])))
        except csv.Error:  # a quote that is never closed for this delimiter
            headers.append((delimiter, []))
    return max(headers, key=lambda header: (column in header[1], len(header[1])))
