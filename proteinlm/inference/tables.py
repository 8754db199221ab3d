"""Writes results that are one line for each protein: to standard output as they come, or to a file, resumably."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from proteinlm.errors import InputError
from proteinlm.inference.jobs import Job
from proteinlm.inference.proteins import file_of
from proteinlm.storage import atomic

STRUCTURE = "structure"
LABELS = "labels"
"""Columns with one letter for each residue, which can be written as FASTA."""
NO_FASTA = "--out: only secondary structure, or labels of residues, can be written as .fasta"
Lines = Callable[[Iterable[pa.Table]], Iterator[str]]


def write_results(job: Job, output: Path | None) -> None:
    """Write the results of `job` to `output`, or as CSV to standard output."""
    if output is None:
        write_lines(job.tables(), None)
        return
    job.to_file(output, writer(output))


def write_lines(tables: Iterable[pa.Table], output: Path | None) -> None:
    """Write the rows of tables to `output`, or as CSV to standard output as they come."""
    if output is None:
        for line in csv_lines(tables):
            sys.stdout.write(line)
            sys.stdout.flush()
        return
    writer(output)(output, tables)


def writer(output: Path) -> Callable[[Path, Iterable[pa.Table]], None]:
    """The function that writes a file with this suffix; raises `InputError` if there is none."""
    writers: dict[str, Lines] = {".csv": csv_lines, ".jsonl": json_lines, ".fasta": fasta_lines}
    if output.suffix not in writers:
        raise InputError(f"{output}: its name ends in none of {', '.join(writers)}")
    lines = writers[output.suffix]

    def write(path: Path, finished: Iterable[pa.Table]) -> None:
        with atomic.written_whole(path) as file:
            file.writelines(line.encode() for line in lines(finished))

    return write


def check_output(output: Path, source: Path, *, states: bool = True) -> None:
    """Raise `InputError` if results of the proteins in `source` cannot be written to `output`.

    `states` says whether they may have a letter for each residue, which .fasta needs.
    """
    writer(output)
    if output.suffix == ".fasta" and not states:
        raise InputError(NO_FASTA)
    atomic.check_output(output, file_of(source))


def csv_lines(tables: Iterable[pa.Table]) -> Iterator[str]:
    """The lines of a CSV file: a header, and one for each row."""
    for number, table in enumerate(tables):
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not number:
            rows.writerow(table.column_names)
        rows.writerows([_plain(value) for value in row.values()] for row in table.to_pylist())
        yield text.getvalue()


def json_lines(tables: Iterable[pa.Table]) -> Iterator[str]:
    """The lines of a JSONL file: an object for each row."""
    for table in tables:
        for row in table.to_pylist():
            yield json.dumps({name: _plain(value) for name, value in row.items()}) + "\n"


def fasta_lines(tables: Iterable[pa.Table]) -> Iterator[str]:
    """The records of a FASTA file: for each row, the states in place of the residues."""
    for table in tables:
        column = next((name for name in (STRUCTURE, LABELS) if name in table.column_names), None)
        if column is None:
            raise InputError(NO_FASTA)
        for row in table.to_pylist():
            yield f">{row['id']}\n{row[column]}\n"


def _plain(value: Any) -> Any:
    """Round a float to six digits: further ones are rounding errors."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
