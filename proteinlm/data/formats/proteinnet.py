"""ProteinNet's text records (AlQuraishi 2019, https://github.com/aqlaboratory/proteinnet), as TAPE's fields."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from proteinlm.data.formats.compression import Watch, read_blocks
from proteinlm.data.formats.tape import Record
from proteinlm.errors import InputError

MAX_LINE = 64 << 20
_SECTIONS = ("[ID]", "[PRIMARY]", "[EVOLUTIONARY]", "[SECONDARY]", "[TERTIARY]", "[MASK]")
_PICOMETRES = 100  # in one Angstrom
_EVOLUTIONARY_ROWS = 21  # 20 amino acids and the information content


def read_proteinnet(path: Path, watch: Watch) -> Iterator[Record]:
    """Records with ``id``, ``primary``, ``protein_length`` and, where the file has them, ``evolutionary`` (L, 21)
    float32, ``secondary`` (a string, one letter of DSSP per residue), ``tertiary`` (L, 3) float32 and ``valid_mask``
    (L,) bool.

    ``tertiary`` is the C-alpha of each residue in Angstrom; the file has N, C-alpha and C in picometres, 0 where
    unresolved.
    """
    sections: dict[str, list[str]] = {}
    name, index = "", 0
    for number, line in enumerate(_lines(path, watch), start=1):
        line = line.strip()
        if line in _SECTIONS:
            if line == "[ID]" and sections:
                yield _record(sections, f"{path}: record {index}")
                sections, index = {}, index + 1
            name = line
            if name in sections:
                raise InputError(f"{path}: record {index}, line {number}: a second {name}")
            sections[name] = []
        elif line:
            if not name:
                raise InputError(f"{path}: line {number}: {line[:40]!r} before the first [ID]")
            sections[name].append(line)
    if sections:
        yield _record(sections, f"{path}: record {index}")


def _lines(path: Path, watch: Watch) -> Iterator[str]:
    pending = b""
    for block in read_blocks(path, watch):
        *lines, pending = (pending + block).split(b"\n")
        if len(pending) > MAX_LINE:
            raise InputError(f"{path}: a line of more than {MAX_LINE} bytes: not a ProteinNet file")
        for line in lines:
            yield line.decode("latin-1")
    yield pending.decode("latin-1")


def _record(sections: dict[str, list[str]], where: str) -> Record:
    record: Record = {}
    if sections.get("[ID]"):
        record["id"] = sections["[ID]"][0]
        where = f"{where} ({record['id']})"
    primary = "".join(sections.get("[PRIMARY]", []))
    if not primary:
        raise InputError(f"{where}: no [PRIMARY]")
    record["primary"], record["protein_length"] = primary, len(primary)
    if "[EVOLUTIONARY]" in sections:
        record["evolutionary"] = _numbers(sections, "[EVOLUTIONARY]", (_EVOLUTIONARY_ROWS, len(primary)), where).T
    if "[SECONDARY]" in sections:
        record["secondary"] = "".join(sections["[SECONDARY]"])
    if "[TERTIARY]" in sections:
        atoms = _numbers(sections, "[TERTIARY]", (3, 3 * len(primary)), where)  # x, y, z of N, C-alpha, C, N, ...
        record["tertiary"] = (atoms[:, 1::3].T / _PICOMETRES).astype(np.float32)
    if "[MASK]" in sections:
        mask = "".join(sections["[MASK]"])
        if set(mask) - set("+-"):
            raise InputError(f"{where}: [MASK] has something else than + and -")
        record["valid_mask"] = np.array([sign == "+" for sign in mask], dtype=bool)
    return record


def _numbers(sections: dict[str, list[str]], name: str, shape: tuple[int, int], where: str) -> np.ndarray:
    """The numbers of a section, (rows, columns) float32."""
    rows = [line.split() for line in sections[name]]
    if len(rows) != shape[0]:
        raise InputError(f"{where}: {name} has {len(rows)} lines, not {shape[0]}")
    for index, row in enumerate(rows):
        if len(row) != shape[1]:
            raise InputError(f"{where}: {name} has {len(row)} numbers in its line {index + 1}, not {shape[1]}")
    try:
        return np.array(rows, dtype=np.str_).astype(np.float32)
    except ValueError as error:
        raise InputError(f"{where}: {name}: {error}") from None
