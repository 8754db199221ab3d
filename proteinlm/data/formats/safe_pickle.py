"""Read the values of TAPE's LMDB files, which are pickles, without running anything that they say.

A pickle is a program for a small stack machine. `loads` is that machine without the instructions that import, call or
build objects: what remains makes dictionaries, lists, tuples, strings, bytes, numbers and numeric numpy arrays. The
few names that numpy arrays need are matched against a table and stand for themselves; no name is ever looked up.
Python's own unpickler with a stricter `find_class` would not do: it hands forged states to numpy's C code, hashes
nested tuples without bound, and sizes its memo by whatever number a file gives.
"""

import codecs
import struct
from collections.abc import Callable
from reprlib import repr as short
from typing import final

from proteinlm.data.formats.safe_pickle_rules import MAX_DEPTH, NAMES, Array, NumberType, Refused, call, with_arrays
from proteinlm.errors import InputError

MAX_BYTES = 64 << 20
MAX_INSTRUCTIONS = 1 << 22
_MAX_MADE = 2 * MAX_BYTES  # by calls, which may convert the same bytes again and again


def loads(data: bytes, where: str) -> object:
    """The value of a pickle of protocol 0 to 5, written by Python 2 or 3 and numpy 1 or 2.

    Strings of Python 2 are decoded as Latin-1. Numpy arrays come back in native byte order, possibly read-only.
    Anything but plain data, and what needs more than the limits here and in `safe_pickle_rules`, raises `InputError`, which
    begins with `where`: the file and the record.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{where}: a pickle of {len(data)} bytes, more than {MAX_BYTES}")
    machine = _Machine(data)
    try:
        return with_arrays(machine.run())
    except Refused as error:
        raise InputError(f"{where}: refused: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{where}: not a readable pickle, at byte {machine.position}: {error}") from None


@final
class _Machine:
    """Runs one pickle; `position` is the byte it has come to."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.stack: list = []
        self.outer: list[list] = []  # the stacks below each open mark
        self.memo: dict[int, object] = {}
        self.made = 0

    def run(self) -> object:
        for _ in range(MAX_INSTRUCTIONS):
            code = self.data[self.position]
            self.position += 1
            if code == _STOP:
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Refused(f"instruction {bytes([code])!r}, which plain data does not need")
            instruction(self)
        raise Refused(f"more than {MAX_INSTRUCTIONS} instructions")

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if count < 0 or self.position > len(self.data):
            raise Refused("it ends before its end")
        return self.data[start : self.position]

    def line(self) -> bytes:
        return self.take(self.data.index(b"\n", self.position) + 1 - self.position)[:-1]

    def unsigned(self, width: int) -> int:
        start, self.position = self.position, self.position + width
        return int.from_bytes(self.data[start : self.position], "little")  # too few at the end: the next step fails

    def counted(self, width: int) -> bytes:
        return self.take(self.unsigned(width))

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.outer) >= MAX_DEPTH:
            raise Refused(f"values nested more than {MAX_DEPTH} deep")
        self.outer.append(self.stack)
        self.stack = []

    def marked(self) -> list:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def last(self, count: int) -> tuple:
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        if len(items) < count:
            raise Refused("too few values")
        return items

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is no text")
        if (module, name) not in NAMES:
            raise Refused(f"it names {f'{module}.{name}'!r:.120}, which is not plain data")
        self.push(NAMES[module, name])

    def global_name(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        self.name(module, name)

    def integer(self) -> None:
        text = self.line()
        self.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def long(self, width: int) -> None:
        size = self.unsigned(width)
        if size > 16:
            raise Refused(f"an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def reduce(self) -> None:
        function, arguments = self.last(2)
        self.push(call(function, arguments))
        self.count(self.stack[-1])

    def build(self) -> None:
        instance, state = self.last(2)
        if not isinstance(instance, NumberType | Array):
            raise Refused(f"a state for {short(instance)}")
        instance.build(state)
        self.push(instance)
        self.count(instance)

    def count(self, value: object) -> None:
        self.made += value.nbytes if isinstance(value, Array) else len(value) if isinstance(value, bytes) else 0
        if self.made > _MAX_MADE:
            raise Refused(f"calls that make more than {_MAX_MADE} bytes")

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused("items for something that is no list")
        target.extend(items)

    def update(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("items for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes | int | float):  # the hash of nested tuples can take forever
                raise Refused(f"a key of type {type(key).__name__}")
            target[key] = value

    def dictionary(self) -> None:
        items = self.marked()
        self.push({})
        self.update(items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


_STOP = ord(".")

_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    ord(code) if isinstance(code, str) else code: instruction
    for code, instruction in (
        ("(", _Machine.mark),
        # numbers and constants
        ("N", lambda m: m.push(None)),
        (0x88, lambda m: m.push(True)),
        (0x89, lambda m: m.push(False)),
        ("I", _Machine.integer),
        ("L", lambda m: m.push(int(m.line().rstrip(b"L")))),
        ("J", lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True))),
        ("K", lambda m: m.push(m.unsigned(1))),
        ("M", lambda m: m.push(m.unsigned(2))),
        (0x8A, lambda m: m.long(1)),
        (0x8B, lambda m: m.long(4)),
        ("F", lambda m: m.push(float(m.line()))),
        ("G", lambda m: m.push(struct.unpack(">d", m.take(8))[0])),
        # strings: of Python 2, Unicode, bytes
        ("S", lambda m: m.push(codecs.escape_decode(m.line()[1:-1])[0].decode("latin-1"))),
        ("T", lambda m: m.push(m.counted(4).decode("latin-1"))),
        ("U", lambda m: m.push(m.counted(1).decode("latin-1"))),
        ("V", lambda m: m.push(m.line().decode("raw-unicode-escape"))),
        ("X", lambda m: m.push(m.counted(4).decode("utf-8", "surrogatepass"))),
        (0x8C, lambda m: m.push(m.counted(1).decode("utf-8", "surrogatepass"))),
        (0x8D, lambda m: m.push(m.counted(8).decode("utf-8", "surrogatepass"))),
        ("B", lambda m: m.push(m.counted(4))),
        ("C", lambda m: m.push(m.counted(1))),
        (0x8E, lambda m: m.push(m.counted(8))),
        (0x96, lambda m: m.push(m.counted(8))),
        # containers
        (")", lambda m: m.push(())),
        (0x85, lambda m: m.push(m.last(1))),
        (0x86, lambda m: m.push(m.last(2))),
        (0x87, lambda m: m.push(m.last(3))),
        ("t", lambda m: m.push(tuple(m.marked()))),
        ("]", lambda m: m.push([])),
        ("l", lambda m: m.push(m.marked())),
        ("a", lambda m: m.extend(list(m.last(1)))),
        ("e", lambda m: m.extend(m.marked())),
        ("}", lambda m: m.push({})),
        ("d", _Machine.dictionary),
        ("s", lambda m: m.update(list(m.last(2)))),
        ("u", lambda m: m.update(m.marked())),
        # memo
        ("p", lambda m: m.put(int(m.line()))),
        ("q", lambda m: m.put(m.unsigned(1))),
        ("r", lambda m: m.put(m.unsigned(4))),
        (0x94, lambda m: m.put(len(m.memo))),
        ("g", lambda m: m.push(m.memo[int(m.line())])),
        ("h", lambda m: m.push(m.memo[m.unsigned(1)])),
        ("j", lambda m: m.push(m.memo[m.unsigned(4)])),
        # names and numpy
        ("c", _Machine.global_name),
        (0x93, lambda m: m.name(*m.last(2))),
        ("R", _Machine.reduce),
        ("b", _Machine.build),
        # framing
        (0x80, lambda m: m.take(1)),
        (0x95, lambda m: m.take(8)),
    )
}
