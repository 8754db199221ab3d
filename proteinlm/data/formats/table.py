"""Reads tables of comma, tab or semicolon separated values, as spreadsheets and programs write them."""

import codecs
import csv
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from proteinlm.data.formats.compression import read_blocks
from proteinlm.errors import InputError

DELIMITERS = (",", "\t", ";")


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
