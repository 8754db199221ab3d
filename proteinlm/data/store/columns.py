"""Proteins as Arrow columns, and back as numpy arrays.

L residues of a protein, W numbers at each. A field (L,) is a list, (W,) a fixed-size list, (L, W) a list of those.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proteinlm.data.formats.fasta import Proteins
from proteinlm.data.store.fields import Field
from proteinlm.data.store.layout import PRETRAIN

_KEY_AND_VALUE = re.compile(r"([A-Za-z_]\w*)=\S*", re.ASCII)
_OWN_COLUMNS = {"id", "sequence", "description"}


def sequence_column(task: str) -> str:
    """The column with the letters of a task's proteins; labelled tasks keep TAPE's name for it."""
    return "sequence" if task == PRETRAIN else "primary"


def header_keys(proteins: Proteins) -> tuple[str, ...]:
    """The keys of the first header if it says ``>id key=value key=value`` and nothing else, otherwise none."""
    header = proteins.headers[: proteins.header_lengths[0]].tobytes().decode("latin-1")
    matches = [_KEY_AND_VALUE.fullmatch(word) for word in re.split(r"\s+", header.strip())[1:]]
    keys = tuple(match[1] for match in matches if match)
    return keys if len(set(keys) - _OWN_COLUMNS) == len(matches) else ()


def from_fasta(proteins: Proteins, keys: tuple[str, ...], first: int) -> pa.RecordBatch:
    """Columns ``id``, ``sequence``, one for each of `keys`, and ``description`` with what else the headers say.

    A record without identifier gets its number as one; `first` is that of the first.
    """
    identifiers, *values, description = _header_columns(proteins, keys)
    numbers = pa.array(np.arange(first, first + len(identifiers))).cast(pa.string())
    identifiers = pc.if_else(pc.equal(identifiers, ""), numbers, identifiers)
    offsets = np.concatenate(([0], np.cumsum(proteins.lengths)))
    sequences = pa.LargeStringArray.from_buffers(
        len(proteins.lengths), pa.py_buffer(offsets), pa.py_buffer(proteins.letters)
    )
    return pa.RecordBatch.from_arrays(
        [identifiers, sequences, *values, description], ["id", "sequence", *keys, "description"]
    )


def _header_columns(proteins: Proteins, keys: tuple[str, ...]) -> list[pa.Array]:
    """Identifiers, the values of each of `keys` (empty where a header lacks it), and the rest (null if none)."""
    lines = _header_lines(proteins)
    exact = "".join(rf"[ \t]+{key}=(?P<v{index}>\S*)" for index, key in enumerate(keys))
    found = pc.extract_regex(lines, rf"^>(?P<id>\S*){exact}\s*$")
    if not found.null_count:
        return [*found.flatten(), pa.nulls(len(lines), pa.string())]
    optional = "".join(rf"(?:[ \t]+{key}=(?P<v{index}>\S*))?" for index, key in enumerate(keys))
    *others, rest = pc.extract_regex(lines, rf"^>(?P<id>\S*){optional}\s*(?P<rest>.*?)\s*$").flatten()
    return [*others, pc.if_else(pc.equal(rest, ""), None, rest)]


def _header_lines(proteins: Proteins) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum(proteins.header_lengths))).astype(np.int32)
    lines = pa.StringArray.from_buffers(
        len(proteins.header_lengths), pa.py_buffer(offsets), pa.py_buffer(proteins.headers)
    )
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:  # not UTF-8: every byte is a character of Latin-1
        lines = pa.array([line.decode("latin-1") for line in lines.cast(pa.binary()).to_pylist()])
    return lines


def from_records(task: str, records: Sequence[dict[str, Any]], schema: dict[str, Field]) -> pa.RecordBatch:
    """One column for each field; null where a record does not have it."""
    names = [sequence_column(task) if name == "primary" else name for name in schema]
    arrays = [_column([record.get(name) for record in records], field) for name, field in schema.items()]
    if task == PRETRAIN:
        index = names.index("sequence")
        arrays[index] = arrays[index].cast(pa.large_string())
    return pa.RecordBatch.from_arrays(arrays, names)


def _column(values: list[Any], field: Field) -> pa.Array:
    number = pa.string() if field.dtype == "str" else pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.axis == "none" and not field.width:
        return pa.array(values, number)
    width = (field.width,) if field.width else ()
    absent = np.zeros(width if field.axis == "none" else (0, *width), field.dtype)
    arrays = [absent if value is None else value for value in values]
    mask = pa.array([value is None for value in values])
    numbers = pa.array(np.concatenate(arrays, dtype=field.dtype).ravel(), number)
    if field.axis == "none":
        return pa.FixedSizeListArray.from_arrays(numbers, field.width, mask=mask)
    cells = pa.FixedSizeListArray.from_arrays(numbers, field.width) if field.width else numbers
    offsets = np.concatenate(([0], np.cumsum([len(array) for array in arrays]))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, cells, mask=mask)


def to_records(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch as TAPE's records: text, Python numbers and numpy arrays; nulls are left out."""
    cells = {name: _cells(batch[name]) for name in batch.schema.names}
    present = {name: batch[name].is_valid().to_numpy(zero_copy_only=False) for name in batch.schema.names}
    for row in range(batch.num_rows):
        yield {name: cell(row) for name, cell in cells.items() if present[name][row]}


def _cells(column: pa.Array) -> Callable[[int], Any]:
    """A function from a row to its value."""
    if pa.types.is_list(column.type):
        values, offsets = _numbers(column.values), column.offsets.to_numpy()
        return lambda row: values[offsets[row] : offsets[row + 1]]
    if pa.types.is_fixed_size_list(column.type):
        rows = _numbers(column)
        return lambda row: rows[row]
    return lambda row: column[row].as_py()


def _numbers(array: pa.Array) -> np.ndarray:
    """Numbers (N,), or (N, W) if each is a fixed-size list."""
    if pa.types.is_fixed_size_list(array.type):
        return array.values.to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size)
    return array.to_numpy(zero_copy_only=False)
