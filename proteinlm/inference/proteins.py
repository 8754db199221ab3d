"""Reads proteins from a FASTA file or standard input, a window at a time, so that memory does not grow with the file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteinlm.data.formats.fasta import read_fasta
from proteinlm.errors import InputError
from proteinlm.inference.model import check_length

STANDARD_INPUT = Path("/dev/stdin")


class Protein(NamedTuple):
    """One record."""

    name: str
    """The header's first word; ``record_<number>``, from 0, where the > is followed by a blank."""
    letters: np.ndarray
    """(L,) uint8: capital ASCII letters."""
    size: int
    """The approximate number of its bytes in the file."""


Window = list[Protein]


def read(path: Path, longest: int) -> Iterator[Protein]:
    """The proteins of a FASTA file (plain, .gz, .xz), or of standard input (plain, gzip) if it is ``-``.

    `InputError` with file, number and name of the record for what `read_fasta` refuses, a name that came before, and
    a protein of more than `longest` residues; the records before it are given first.
    """
    path = STANDARD_INPUT if str(path) == "-" else path
    seen: set[int] = set()  # hashes of the names: some 60 bytes for each record, whatever its size
    try:
        for block in read_fasta(path, lambda raw: None):
            headers = np.split(block.headers, np.cumsum(block.header_lengths)[:-1])
            sequences = np.split(block.letters, np.cumsum(block.lengths)[:-1])
            for header, letters in zip(headers, sequences, strict=True):
                name = _name(header) or f"record_{len(seen)}"
                try:
                    if hash(name) in seen:
                        raise InputError("a name that came before")
                    check_length(len(letters), longest)
                except InputError as error:
                    raise InputError(f"{path}: record {len(seen)} ({name}): {error}") from None
                seen.add(hash(name))
                yield Protein(name, letters, len(header) + len(letters) + 1)
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
