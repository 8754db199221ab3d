"""FASTA, parsed in blocks of some MiB by array operations: each line costs nothing of its own."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteinlm.data.formats.compression import Watch, read_blocks
from proteinlm.data.formats.letters import BLANK, OTHER, RESIDUE, UNKNOWN, Letters, is_alignment
from proteinlm.errors import InputError

BLOCK = 1 << 20
MAX_RECORD = 64 << 20
"""Bytes of one record. The longest protein known has 45,354 residues; what is longer than this is no FASTA file."""


class Proteins(NamedTuple):
    """Consecutive records: N headers in one buffer, R residues in another."""

    headers: np.ndarray
    """ASCII or UTF-8, (bytes,) uint8: N lines, each with its ``>`` and line break."""
    header_lengths: np.ndarray
    """(N,) int64."""
    letters: np.ndarray
    """(R,) uint8: capital ASCII letters, `vocabulary.UNKNOWN_LETTER` among them where ``letters`` is ``unknown``."""
    lengths: np.ndarray
    """(N,) int64: residues of each protein, at least one."""


def read_fasta(path: Path, watch: Watch, letters: Letters | None = None) -> Iterator[Proteins]:
    """The proteins of a FASTA file, plain, .gz or .xz.

    Sequences may run over several lines, hold blanks, end lines with CRLF and be in lower case. `letters` decides about
    characters that are no residues, and counts what it drops; by default it is strict. `InputError` for a file without
    records, a sequence without header, a header without sequence, and a letter that `letters` refuses; the records before
    it are given first.
    """
    letters = letters or Letters()
    table = letters.kinds(is_alignment(path))
    records, lines = 0, 0
    for block in _whole_records(path, watch):
        pieces = [block]
        while pieces:
            piece = pieces.pop(0)
            try:
                proteins, line_count = _parse(piece, path, records, lines, letters, table)
            except InputError:
                parts = _one_by_one(piece)
                if len(parts) == 1:
                    raise
                pieces = parts  # the piece is the whole block
                continue
            if proteins is not None:
                yield proteins
                records += len(proteins.lengths)
            lines += line_count
    if not records:
        raise InputError(f"{path}: no FASTA records")


def _whole_records(path: Path, watch: Watch) -> Iterator[bytes]:
    """The file cut before header lines; every block ends with a line break."""
    chunks = read_blocks(path, watch)
    pending = bytearray(next(chunks, b"").removeprefix(codecs.BOM_UTF8))
    for chunk in chunks:
        pending += chunk
        if len(pending) < BLOCK:
            continue
        cut = pending.rfind(b"\n>") + 1
        if cut:
            yield bytes(memoryview(pending)[:cut])
            del pending[:cut]
        elif len(pending) > MAX_RECORD:
            raise InputError(f"{path}: a record of more than {MAX_RECORD} bytes: not a FASTA file")
    if pending:
        yield bytes(pending) if pending.endswith(b"\n") else bytes(pending) + b"\n"


def _one_by_one(block: bytes) -> list[bytes]:
    first, *others = block.split(b"\n>")
    parts = [first, *(b">" + other for other in others)]
    return [*(part + b"\n" for part in parts[:-1]), parts[-1]]


def _parse(
    block: bytes, path: Path, record: int, line: int, letters: Letters, table: bytes
) -> tuple[Proteins | None, int]:
    """The proteins of a block and its number of lines; `record` and `line` are what came before it."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n")) + 1
    starts = np.concatenate(([0], ends[:-1]))
    is_header = text[starts] == ord(">")
    in_header = np.repeat(is_header, ends - starts)
    kinds = np.frombuffer(bytearray(block.translate(table)), np.uint8)
    kinds[in_header] = BLANK
    headers = starts[is_header]
    named = _Block(text, path, record, line, starts, headers)
    before = headers[0] if len(headers) else len(text)
    if (kinds[:before] != BLANK).any():
        raise InputError(f"{path}: line {named.line_of(int((kinds != BLANK).argmax()))}: a sequence without header")
    if not len(headers):
        return None, len(ends)
    letters.decide(kinds, headers)
    is_residue, is_other = kinds == RESIDUE, kinds == OTHER
    if is_other.any():
        if letters.choice != UNKNOWN:
            place = int(is_other.argmax())
            before_it = int(is_residue[headers[np.searchsorted(headers, place, side="right") - 1] : place].sum())
            raise InputError(f"{named.record_at(place)}: {letters.refusal(chr(text[place]), before_it)}")
        is_residue |= is_other
    lengths = np.add.reduceat(is_residue, headers, dtype=np.int64)
    if not lengths.all():
        raise InputError(f"{named.record_at(int(headers[lengths.argmin()]))}: a header without sequence")
    proteins = Proteins(text[in_header], (ends - starts)[is_header], letters.take(text, kinds), lengths)
    return proteins, len(ends)


class _Block(NamedTuple):
    """Where things are in a block, for messages."""

    text: np.ndarray
    path: Path
    record: int
    line: int
    starts: np.ndarray
    headers: np.ndarray

    def line_of(self, position: int) -> int:
        return self.line + int(np.searchsorted(self.starts, position, side="right"))

    def record_at(self, position: int) -> str:
        index = int(np.searchsorted(self.headers, position, side="right")) - 1
        line = self.text[self.headers[index] + 1 :][:200].tobytes().splitlines()[0]
        identifier = line.decode(errors="replace").split(" ")[0].rstrip("\r")
        return f"{self.path}: record {self.record + index} ({identifier}), line {self.line_of(position)}"
