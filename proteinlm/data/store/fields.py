"""TAPE's fields: their types and shapes, and what a record must satisfy.

L is the number of residues. TAPE's own description: ``tfrecord_to_lmdb.py`` and the data sets of its PyTorch code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, Literal

import numpy as np

from proteinlm import vocabulary
from proteinlm.data.formats.letters import Letters
from proteinlm.data.formats.tape import Record
from proteinlm.errors import InputError

Name = Callable[[int], str]


@dataclass(frozen=True)
class Field:
    """What a field holds: text, one number, ``width`` numbers, or so many numbers along an axis."""

    dtype: str
    """Numpy's name of it, or ``str``."""
    axis: Literal["none", "residues", "any"] = "none"
    width: int = 0
    """Numbers at each place of the axis; 0 for a single one, without an axis of its own."""
    required: bool = False
    finite: bool = False
    """A target: neither NaN nor infinite."""
    classes: tuple[int, int] | None = None
    """Lowest and highest label."""


_TEXT = Field("str")
_NUMBER = Field("int32")
_COMMON = {"id": _TEXT, "primary": _TEXT, "protein_length": _NUMBER}


def _track(dtype: str, width: int = 0) -> Field:
    return Field(dtype, "residues", width)


FIELDS: dict[str, dict[str, Field]] = {
    "pretrain": {**_COMMON, "clan": _NUMBER, "family": _NUMBER},
    "secondary_structure": {
        **_COMMON,
        "ss3": Field("int32", "residues", required=True, classes=(-1, 2)),  # -1: not known
        "ss8": Field("int32", "residues", classes=(-1, 7)),
        "valid_mask": Field("float32", "residues", required=True, finite=True),
        "cb513_mask": _track("float32"),
        "evolutionary": _track("float32", 30),
        "disorder": _track("int32"),
        "interface": _track("int32"),
        **{name: _track("float32") for name in ("phi", "psi", "rsa", "asa_max")},
    },
    "proteinnet": {
        **_COMMON,
        "tertiary": Field("float32", "residues", 3, required=True),  # C-alpha in Angstrom; finite where valid
        "valid_mask": Field("bool", "residues", required=True),
        "evolutionary": _track("float32", 21),
        "secondary": _TEXT,
    },
    "remote_homology": {
        **_COMMON,
        "fold_label": Field("int32", required=True, classes=(0, 1194)),
        **{f"{level}_label": _NUMBER for level in ("class", "superfamily", "family")},
        "secondary_structure": _track("float32", 3),
        "solvent_accessibility": _track("float32", 2),
        "evolutionary": _track("float32", 20),
    },
    "fluorescence": {
        **_COMMON,
        "log_fluorescence": Field("float32", width=1, required=True, finite=True),
        "num_mutations": _NUMBER,
    },
    "stability": {
        **_COMMON,
        "stability_score": Field("float32", width=1, required=True, finite=True),
        "topology": _TEXT,
        "parent": _TEXT,
    },
}
"""Known fields of each task. Others are kept too, with the type and shape of the first record that has them."""


def resolve(task: str, records: Sequence[Record], name: Name) -> dict[str, Field]:
    """The fields of a file by its first records, known ones first; what a task cannot do without is among them."""
    known = FIELDS[task]
    present: dict[str, Field] = {}
    for index, record in enumerate(records):
        for field, value in record.items():
            if field not in present and value is not None:
                with _named(name, index):
                    present[field] = known.get(field) or infer_field(field, value)
    first = {field: meaning for field, meaning in known.items() if field in present or meaning.required}
    return first | present


def check_records(
    schema: dict[str, Field], records: list[Record], name: Name, letters: Letters | None = None
) -> list[Record]:
    """The records with every field in its type and shape and ``primary`` in capitals; ``name(i)`` names record i.

    `letters` decides about characters that are no residues; by default it is strict. `InputError` for a record without
    ``primary`` or target, a letter that is refused, an array that does not fit its protein, a label out of range, a NaN in
    a target, and a field that `schema` does not have.
    """
    letters = letters or Letters()
    primaries = []
    for index, record in enumerate(records):
        with _named(name, index):
            primaries.append(_primary(record))
    whole = np.frombuffer("".join(primaries).encode("latin-1", "replace"), np.uint8)
    if vocabulary.first_invalid(whole) is not None:
        for index, record in enumerate(records):
            with _named(name, index):
                primaries[index], records[index] = _cleaned(schema, record, primaries[index], letters)
    result = []
    for index, record in enumerate(records):
        with _named(name, index):
            result.append(_checked(schema, record, primaries[index].upper()))
    return result


def _cleaned(schema: dict[str, Field], record: Record, primary: str, letters: Letters) -> tuple[str, Record]:
    """The residues of a record, and the record with their number; labels of residues forbid that any is dropped."""
    residues = letters.clean(primary)
    if len(residues) == len(primary):
        return residues, record
    tracks = [
        name for name in record if record[name] is not None and name in schema and schema[name].axis == "residues"
    ]
    if tracks:
        dropped = len(primary) - len(residues)
        raise InputError(f"letters={letters.choice} would drop {dropped} letters, for which {tracks[0]} has values")
    return residues, record | ({"protein_length": len(residues)} if "protein_length" in record else {})


@contextmanager
def _named(name: Name, index: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name(index)}: {error}") from None


def _primary(record: Record) -> str:
    primary = record.get("primary")
    if isinstance(primary, np.ndarray | list) and len(primary):
        raise InputError("primary is numbers, not letters: an LMDB older than TAPE's fix_lmdb.py")
    if not isinstance(primary, str | bytes) or not primary:
        raise InputError("no primary sequence")
    return primary if isinstance(primary, str) else primary.decode("latin-1")


def _checked(schema: dict[str, Field], record: Record, primary: str) -> dict[str, Any]:
    for name, field in schema.items():
        if field.required and record.get(name) is None:
            raise InputError(f"no {name}")
    values: dict[str, Any] = {}
    for name, value in record.items():
        if name not in schema and value is not None:
            raise InputError(f"a field {name}, which the first records do not have")
        if value is not None:
            values[name] = primary if name == "primary" else _converted(name, value, schema[name], len(primary))
    if {"tertiary", "valid_mask"} <= values.keys():
        unknown = ~np.isfinite(values["tertiary"]).all(axis=1) & values["valid_mask"].astype(bool)
        if unknown.any():
            raise InputError(
                f"tertiary is NaN or infinite at position {unknown.argmax() + 1}, which valid_mask calls valid"
            )
    return values


def infer_field(name: str, value: object) -> Field:
    """The type and shape of a field that TAPE does not have."""
    if isinstance(value, str | bytes):
        return _TEXT
    array = _array(name, value)
    dtype = {"b": "bool", "i": "int64", "u": "int64", "f": "float32"}[array.dtype.kind]
    if array.ndim > 2:
        raise InputError(f"{name} has {array.ndim} axes, more than 2")
    return Field(dtype, "any" if array.ndim else "none", array.shape[1] if array.ndim == 2 else 0)


def _array(name: str, value: object) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has rows of unequal length") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is not numbers: {short(value)}")
    return array


def _converted(name: str, value: object, field: Field, residues: int) -> object:
    """The value as text, a Python number, or an array of the field's type and shape."""
    if field.dtype == "str":
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if not isinstance(text, str) and (name != "id" or not isinstance(text, int | np.integer)):
            raise InputError(f"{name} is not text: {short(value)}")
        return str(text)
    if type(value) is int and field == _NUMBER and abs(value) < 1 << 31:
        return value  # Pfam's 34 million records have three of these each
    array = _array(name, value)
    shape: tuple[int, ...] = (field.width,) if field.width else ()
    if field.axis != "none":
        shape = (residues if field.axis == "residues" or not array.ndim else len(array), *shape)
    elif array.size == 1:
        array = array.reshape(shape)  # TAPE has targets both as numbers and as arrays of one
    if array.shape != shape:
        fitting = f" for {residues} residues" if field.axis == "residues" else ""
        raise InputError(f"{name} has shape {array.shape}, not {shape}{fitting}")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(field.dtype, copy=False)
    if converted.dtype.kind != "f" and not np.array_equal(converted, array):
        raise InputError(f"{name} holds something that is no {field.dtype}: {short(value)}")
    _check_values(name, converted, field)
    return converted if shape else converted.item()


def _check_values(name: str, array: np.ndarray, field: Field) -> None:
    wrong, what = None, ""
    if field.finite:
        wrong, what = ~np.isfinite(array), "NaN or infinite"
    elif field.classes:
        wrong, what = (array < field.classes[0]) | (array > field.classes[1]), f"not in {field.classes}"
    if wrong is not None and wrong.any():
        place = f" at position {wrong.argmax() + 1}" if field.axis == "residues" else ""
        raise InputError(f"{name} is {what}{place}: {array.ravel()[wrong.argmax()]}")
