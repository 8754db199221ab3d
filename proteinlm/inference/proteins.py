"""Reads proteins from a FASTA file or standard input, a window at a time, so that memory does not grow with the file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteinlm.data.formats.fasta import read_fasta
from proteinlm.data.formats.letters import Letters
from proteinlm.errors import InputError
from proteinlm.inference.model import check_length

STANDARD_INPUT = Path("/dev/stdin")


class Protein(NamedTuple):
    """One record."""

    name: str
    """The header's first word; ``record_<number>``, from 0, where the > is followed by a blank."""
    letters: np.ndarray
    """(L,) uint8: capital ASCII letters, and `vocabulary.UNKNOWN_LETTER` where the letters were so read."""
    size: int
    """The approximate number of its bytes in the file."""


Window = list[Protein]


def file_of(source: Path) -> Path:
    """The file that `source` names on a command line, where ``-`` is standard input."""
    return STANDARD_INPUT if str(source) == "-" else source


def read(
    path: Path,
    longest: int,
    stored_name: Callable[[str], str] | None = None,
    letters: Letters | None = None,
    advice: str = "",
) -> Iterator[Protein]:
    """Read the proteins of a FASTA file (plain, .gz, .xz), or of standard input (plain, gzip) if it is ``-``.

    Raises `InputError` with file, number and name of the record for what `read_fasta` refuses, a name that came before,
    and a protein of more than `longest` residues, which ends in `advice`; the records before it are given first. If the
    output finds proteins by another name, `stored_name`, these must differ too. `letters` decides about characters that
    are no residues, and counts what it drops and replaces.
    """
    names = _Names(path, stored_name)
    for protein in _records(path, letters):
        names.add(protein.name)
        try:
            check_length(len(protein.letters), longest, advice)
        except InputError as error:
            raise InputError(f"{names.last}: {error}") from None
        yield protein


def check_names(path: Path, stored_name: Callable[[str], str], letters: str) -> None:
    """Raise `InputError` if two proteins of a FASTA file have the same stored name.

    Whatever else is wrong is left to `read`, which gives the records before it.
    """
    names, records = _Names(path, stored_name), _records(path, Letters(letters))
    while True:
        try:
            protein = next(records, None)
        except InputError:
            return
        if protein is None:
            return
        names.add(protein.name)


class _Names:
    """The names of the records so far."""

    def __init__(self, path: Path, stored_name: Callable[[str], str] | None) -> None:
        self.path, self.stored_name = file_of(path), stored_name
        self.hashes: set[int] = set()  # hashes of the names: some 60 bytes for each record, whatever its size
        self.last = ""
        """File, number and name of the last record."""

    def add(self, name: str) -> None:
        """Add the name of the next record; raises `InputError` if it came before."""
        stored = self.stored_name(name) if self.stored_name else name
        self.last = f"{self.path}: record {len(self.hashes)} ({name})"
        if hash(stored) in self.hashes:
            how = f", as {stored}" if self.stored_name else ""
            raise InputError(f"{self.last}: a name that came before{how}")
        self.hashes.add(hash(stored))


def _records(path: Path, letters: Letters | None) -> Iterator[Protein]:
    path, number = file_of(path), 0
    try:
        for block in read_fasta(path, lambda raw: None, letters):
            headers = np.split(block.headers, np.cumsum(block.header_lengths)[:-1])
            sequences = np.split(block.letters, np.cumsum(block.lengths)[:-1])
            for header, sequence in zip(headers, sequences, strict=True):
                yield Protein(_name(header) or f"record_{number}", sequence, len(header) + len(sequence) + 1)
                number += 1
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def tokens_of(protein: Protein) -> int:
    """The number of tokens that one pass over a protein computes."""
    return len(protein.letters) + 1


def windows(proteins: Iterator[Protein], budget: int, cost: Callable[[Protein], int] = tokens_of) -> Iterator[Window]:
    """Group consecutive proteins that reach `budget` tokens together; those before an `InputError` come before it."""
    window, size = [], 0
    try:
        for protein in proteins:
            window.append(protein)
            size += cost(protein)
            if size >= budget:
                yield window
                window, size = [], 0
    except InputError:
        if window:
            yield window
        raise
    if window:
        yield window


def _name(header: np.ndarray) -> str:
    words = header[1:].tobytes().decode(errors="replace").split(maxsplit=1)
    return words[0] if words and not chr(header[1]).isspace() else ""
