"""Reads alignments: a3m, aligned FASTA, Stockholm and rows alone, plain, .gz or .xz.

The formats of one alignment give equal arrays, because the columns are always those where the query has a residue.
The query is the first row; a consensus before it is passed over. What its relatives have between two of its residues is
left out.

- **a3m** and a2m, known by the name: lower-case letters, ``.`` and ``*`` are left out. Where the query itself has
  lower-case letters, as `hmmalign` writes what its profile does not cover, these are columns in which no relative has a
  residue, since nothing is aligned with them. An entry of MMseqs2's result2msa, which ends in a zero byte, is an a3m.
- **Stockholm**, known by the name or the first line: ``.``, ``-``, ``_``, ``~`` and ``*`` are gaps, and lower-case letters
  are residues. Annotation is passed over. Blocks of the same rows may follow one another.
- **rows alone**, one on each line, as PSICOV and CCMpred read them, known by a name that ends in .aln. As Stockholm.
- **aligned FASTA**, every other file: as Stockholm.

N rows, L columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from proteinlm.data.formats.compression import read_blocks
from proteinlm.data.formats.letters import is_alignment
from proteinlm.errors import InputError

GAP = ord("-")
STOCKHOLM = {".sto", ".stk", ".stockholm"}
ROWS_ALONE = ".aln"
MAX_FILE = 4 << 30
"""Bytes of a file after decompression."""
_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_SMALL = _CAPITALS.lower()
_GAPS = b".-_~*"
_RESIDUES_OR_GAPS = bytes.maketrans(_SMALL + _GAPS, _CAPITALS + b"-" * len(_GAPS))
_PREDICTED = ("ss_", "Consensus")  # rows of HH-suite's files that are no proteins
_CONSENSUS = "_consensus"  # how the name of the row that hhconsensus and hhblits put first ends


@dataclass(frozen=True)
class Alignment:
    """A protein, the query, and its relatives in the same columns."""

    names: list[str]
    """The first word of each header, or ``record_<number>``, from 0."""
    letters: np.ndarray
    """(N, L) uint8: capital letters, and `GAP`. The query is the first row and has no gap."""
    origin: str
    """The file, for messages."""

    @property
    def query(self) -> np.ndarray:
        """(L,) uint8."""
        return self.letters[0]

    @property
    def depth(self) -> int:
        """The number of rows."""
        return len(self.letters)

    @property
    def columns(self) -> int:
        return self.letters.shape[1]

    @cached_property
    def coverage(self) -> np.ndarray:
        """The share of columns in which each row has a residue, (N,)."""
        return (self.letters != GAP).mean(axis=1)

    def rows(self, chosen: np.ndarray) -> "Alignment":
        """The alignment of the rows `chosen` (K,) alone."""
        return Alignment([self.names[row] for row in chosen], self.letters[chosen], self.origin)


def read_alignment(path: Path) -> Alignment:
    """Read the alignment in `path`.

    Rows that have no residue in the query's columns are left out. Raises `InputError` with file and record for a file
    without rows, rows of different lengths, a character that is neither residue nor gap, a row of gaps alone.
    """
    content = _content(path)
    names, rows = _rows(path, content)
    inserts = is_alignment(path)
    if len(names) > 1 and names[0].endswith(_CONSENSUS):
        names, rows = names[1:], rows[1:]
    query = rows[0].translate(None, b".*")
    rows = [_columns(path, number, names[number], row, inserts) for number, row in enumerate(rows)]
    lengths = [len(row) for row in rows]
    for number, length in enumerate(lengths):
        if length != lengths[0]:
            advice = ""
            if not inserts and any(byte in _SMALL for byte in content):
                advice = "; the name of a file whose lower-case letters are insert states ends in .a3m"
            raise InputError(
                f"{path}: record {number} ({names[number]}) has {length} columns, the query {lengths[0]}{advice}"
            )
        if rows[number].count(GAP) == length:
            raise InputError(f"{path}: record {number} ({names[number]}) has no residue")
    letters = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), lengths[0])
    if inserts and any(byte in _SMALL for byte in query):
        letters = _with_inserts(query, letters)
    letters = letters[:, letters[0] != GAP]
    kept = np.flatnonzero((letters != GAP).any(axis=1))
    return Alignment([names[row] for row in kept], np.ascontiguousarray(letters[kept]), str(path))


def read_in_columns(path: Path, query: np.ndarray, of: str) -> tuple[list[str], np.ndarray]:
    """Names, and letters (N, L) uint8, of proteins that are written in the columns of the alignment `of`, with `query` (L,).

    The formats are those of `read_alignment`, but no row needs to be the query. Where the first row is, the file may also
    have columns in which it has no residue, as the alignment itself. Raises `InputError` for a row of another length.
    """
    content = _content(path)
    names, rows = _rows(path, content)
    inserts = is_alignment(path)
    rows = [_columns(path, number, names[number], row, inserts) for number, row in enumerate(rows)]
    lengths = [len(row) for row in rows]
    if lengths[0] != len(query) and len({*lengths}) == 1:
        alignment = read_alignment(path)
        if np.array_equal(alignment.query, query):
            return alignment.names, alignment.letters
    for number, length in enumerate(lengths):
        if length != len(query):
            raise InputError(
                f"{path}: record {number} ({names[number]}) has {length} columns, {of} {len(query)}: align it to that first"
            )
    return names, np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), len(query))


def is_stockholm(path: Path) -> bool:
    """Whether a file holds Stockholm, by its name."""
    return bool(STOCKHOLM & set(path.suffixes[-2:]))


def check_query(alignment: Alignment, protein: np.ndarray) -> int:
    """The place in `protein` (L',) uint8 of the alignment's first column, from 0.

    Raises `InputError` if the query is not a stretch of the protein; another row that is one is named.
    """
    whole = protein.tobytes()
    place = whole.find(alignment.query.tobytes())
    if place >= 0:
        return place
    for number, row in enumerate(alignment.letters[1:], 1):
        residues = row[row != GAP].tobytes()
        if len(residues) > 1 and residues in whole and 2 * len(residues) > len(whole):
            name = alignment.names[number]
            raise InputError(f"{alignment.origin}: the protein is row {number} ({name}), not the first: put it first")
    if len(protein) == alignment.columns:
        differs = int((protein != alignment.query).argmax())
        raise InputError(
            f"{alignment.origin}: its first row has {chr(alignment.query[differs])} as residue {differs + 1}, "
            f"the protein {chr(protein[differs])}"
        )
    raise InputError(f"{alignment.origin}: its first row, the query, is not part of the protein")


def _content(path: Path) -> bytes:
    try:
        return b"".join(_bounded(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _rows(path: Path, content: bytes) -> tuple[list[str], list[bytes]]:
    """Names and rows as they are written."""
    first = content.lstrip().partition(b"\n")[0]
    if is_stockholm(path) or first.startswith(b"# STOCKHOLM"):
        names, rows = _stockholm(path, content)
    elif first.startswith((b"CLUSTAL", b"MUSCLE")) and b" " in first:  # often named .aln too
        raise InputError(f"{path}: Clustal's format: write it as aligned FASTA, a3m or Stockholm")
    elif ROWS_ALONE in path.suffixes[-2:] and not first.startswith(b">"):
        names, rows = _rows_alone(content)
    else:
        names, rows = _fasta(path, content)
    if not rows:
        raise InputError(f"{path}: no rows: an empty alignment")
    return names, rows


def _bounded(path: Path) -> Iterator[bytes]:
    size = 0
    for block in read_blocks(path, lambda raw: None):
        size += len(block)
        if size > MAX_FILE:
            raise InputError(f"{path}: more than {MAX_FILE:,} bytes: no alignment of one protein")
        yield block


def _with_inserts(query: bytes, letters: np.ndarray) -> np.ndarray:
    """The columns `letters` (N, L), and among them one for each lower-case letter of the row `query`, with gaps below it."""
    row = np.frombuffer(query, np.uint8)
    is_column = np.array([byte not in _SMALL for byte in query])
    whole = np.full((len(letters), len(row)), GAP, np.uint8)
    whole[:, is_column] = letters
    whole[0] = np.frombuffer(query.upper(), np.uint8)
    return whole


def _fasta(path: Path, content: bytes) -> tuple[list[str], list[bytes]]:
    """Names and rows of records that begin with ``>``; comments before the first and predicted rows are passed over."""
    content = content.rstrip(b"\0")  # at the end of an entry of MMseqs2's data bases
    if b"\0" in content:
        raise InputError(
            f"{path}: several alignments, each with a zero byte at its end: give each a file (mmseqs unpackdb)"
        )
    before, *records = (b"\n" + content.removeprefix(b"\xef\xbb\xbf")).split(b"\n>")
    for number, line in enumerate(before.splitlines()[1:], 1):
        if line.strip() and not line.startswith(b"#"):
            raise InputError(
                f"{path}: line {number}: a row without header: neither FASTA, a3m nor Stockholm; "
                "the name of a file of rows alone ends in .aln"
            )
    names, rows = [], []
    for number, record in enumerate(records):
        header, _, row = record.partition(b"\n")
        words = header.decode(errors="replace").split()
        if words and words[0].startswith(_PREDICTED):
            continue
        names.append(words[0] if words else f"record_{number}")
        rows.append(b"".join(row.split()))
    return names, rows


def _stockholm(path: Path, content: bytes) -> tuple[list[str], list[bytes]]:
    """Names and rows of one Stockholm alignment, whose rows may be cut into blocks."""
    parts: dict[str, list[bytes]] = {}
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() == b"//":
            if any(rest.strip() for rest in lines[number:]):
                raise InputError(f"{path}: line {number + 1}: a second alignment: give each a file")
            break
        if not line.strip() or line.startswith(b"#"):
            continue
        words = line.split()
        if len(words) != 2:
            raise InputError(f"{path}: line {number}: not a name and a row")
        parts.setdefault(words[0].decode(errors="replace"), []).append(words[1])
    return list(parts), [b"".join(pieces) for pieces in parts.values()]


def _rows_alone(content: bytes) -> tuple[list[str], list[bytes]]:
    """Names, which are numbers, and rows, each on a line of its own."""
    rows = [line.strip() for line in content.splitlines() if line.strip()]
    return [f"record_{number}" for number in range(len(rows))], rows


def _columns(path: Path, number: int, name: str, row: bytes, inserts: bool) -> bytes:
    """The row in capitals and `GAP`, without insert states if the format has them."""
    row = row.translate(None, _SMALL + b".*") if inserts else row.translate(_RESIDUES_OR_GAPS)
    if wrong := row.translate(None, _CAPITALS + b"-"):
        raise InputError(f"{path}: record {number} ({name}): {chr(wrong[0])!r} is neither a residue nor a gap")
    return row
