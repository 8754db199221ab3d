"""What a pickle of plain data may name, call and contain.

`safe_pickle` runs the pickle; the classes here stand for numpy's objects meanwhile, so that numpy itself never sees a
state that a file made up. `with_arrays` puts real arrays in their place.
"""

import re
from enum import Enum, auto
from reprlib import repr as short
from typing import final

import numpy as np

MAX_ELEMENTS = 1 << 24
"""Numbers and letters of a record, each counted as often as it is referred to."""
MAX_DEPTH = 16
_MAX_LENGTH = 1 << 31  # of an axis


class Refused(Exception):
    """The pickle asks for something that data does not need."""


class Name(Enum):
    """What a pickle of plain data may refer to by name."""

    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    SCALAR = auto()
    ARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    BYTES = auto()


NAMES = {
    ("numpy", "ndarray"): Name.ARRAY,
    ("numpy", "dtype"): Name.DTYPE,
    ("_codecs", "encode"): Name.ENCODE,  # how protocols 0 to 2 write bytes ...
    ("__builtin__", "bytes"): Name.BYTES,  # ... and how they write no bytes
    ("builtins", "bytes"): Name.BYTES,
    **{
        (f"numpy.{core}.{module}", name): meaning
        for core in ("core", "_core")  # numpy 1 and 2
        for module, name, meaning in (
            ("multiarray", "_reconstruct", Name.RECONSTRUCT),
            ("multiarray", "scalar", Name.SCALAR),
            ("numeric", "_frombuffer", Name.FROM_BUFFER),
        )
    },
}


@final
class NumberType:
    """Stands for a numpy dtype until its byte order is known."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise Refused(f"an array of type {short(code)}, which is not plain numbers")
        self.dtype = np.dtype(code)

    def build(self, state: object) -> None:
        _, order, *structure = items_of(state, 5, 9)
        if order not in ("<", ">", "|", "=") or any(part not in (None, -1, 0) for part in structure):
            raise Refused("an array with a structured type")
        self.dtype = self.dtype.newbyteorder(order)


@final
class Array:
    """Stands for a numpy array until its content is known."""

    def __init__(self) -> None:
        self.content: np.ndarray | None = None

    def build(self, state: object) -> None:
        _, shape, kind, is_fortran, raw = items_of(state, 5, 5)
        self.fill(raw, kind, shape, "F" if is_fortran else "C")

    def fill(self, raw: object, kind: object, shape: object, order: object) -> None:
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 does not tell bytes from strings
        lengths = items_of(shape, 0, 8)
        if not isinstance(raw, bytes) or not isinstance(kind, NumberType) or order not in ("C", "F"):
            raise Refused("an array that is not plain numbers")
        size = kind.dtype.itemsize
        for length in lengths:
            if not isinstance(length, int) or not 0 <= length <= _MAX_LENGTH:
                raise Refused(f"an array of shape {short(shape)}")
            size *= length
        if size != len(raw):
            raise Refused(f"an array of shape {short(shape)} with {len(raw)} bytes")
        array = np.frombuffer(raw, kind.dtype).reshape(lengths, order="F" if order == "F" else "C")
        self.content = array.astype(kind.dtype.newbyteorder("="), copy=False)

    @property
    def nbytes(self) -> int:
        return 0 if self.content is None else self.content.nbytes


def items_of(value: object, fewest: int, most: int) -> tuple:
    """The items of what must be a tuple of `fewest` to `most`."""
    if not isinstance(value, tuple) or not fewest <= len(value) <= most:
        raise Refused(f"{short(value)} where a tuple belongs")
    return value


def call(function: object, arguments: object) -> object:
    """The outcome of the only calls that plain data makes."""
    if function is Name.RECONSTRUCT and items_of(arguments, 3, 3)[0] is Name.ARRAY:
        return Array()
    if function is Name.DTYPE:
        return NumberType(items_of(arguments, 1, 3)[0])
    if function is Name.FROM_BUFFER:
        array = Array()
        array.fill(*items_of(arguments, 4, 4))
        return array
    if function is Name.SCALAR:
        kind, raw = items_of(arguments, 2, 2)
        array = Array()
        array.fill(raw, kind, (1,), "C")
        return array.content[0] if array.content is not None else None
    if function is Name.ENCODE:
        text, encoding = items_of(arguments, 2, 2)
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            return text.encode("latin-1")
    if function is Name.BYTES and arguments == ():
        return b""
    raise Refused(f"a call of {short(function)}")


def with_arrays(value: object) -> object:
    """The value with arrays in the place of their stand-ins; one that would not end or not fit is refused."""
    if type(value) is dict and all(type(item) in (str, int) for item in value.values()):
        return value  # Pfam's 34 million records
    _Sizes().of(value, 0)
    return _with_arrays(value)


@final
class _Sizes:
    """Elements of values as a reader that knows nothing of sharing would count them."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}  # of each container, by identity; 0 while it is being visited

    def of(self, value: object, depth: int) -> int:
        if isinstance(value, Array):
            return 1 if value.content is None else value.content.size + 1
        if isinstance(value, str | bytes):
            return len(value) + 1
        if not isinstance(value, list | tuple | dict):
            return 1
        known = self.sizes.get(id(value))
        if known == 0 or depth > MAX_DEPTH:
            raise Refused(f"values nested more than {MAX_DEPTH} deep")
        if known is None:
            self.sizes[id(value)] = 0
            known = 1 + sum(self.of(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))
            self.sizes[id(value)] = known
        if known > MAX_ELEMENTS:
            raise Refused(f"a value of more than {MAX_ELEMENTS} elements")
        return known


def _with_arrays(value: object) -> object:
    if isinstance(value, Array):
        if value.content is None:
            raise Refused("an array without content")
        return value.content
    if isinstance(value, NumberType | Name):
        raise Refused("a type where a value belongs")
    if isinstance(value, dict):
        return {key: _with_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_arrays, value))
    return value
