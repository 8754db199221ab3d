"""A pickle of plain data gives what Python's unpickler gives; any other is refused, unexecuted, in bounded memory."""

import io
import os
import pickle
import re
import struct
import tracemalloc
from collections import OrderedDict
from datetime import date

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proteinlm.data.formats import safe_pickle
from proteinlm.errors import InputError
from tests.data.samples import dumps_numpy_1, tape_record

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NUMBER_TYPES = ["?", "i1", "u1", "<i2", "<i4", "<i8", ">i4", "<u8", "<f2", "<f4", ">f4", "<f8"]

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def assert_same(ours: object, theirs: object) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list | tuple)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, np.ndarray | np.generic):
        assert isinstance(ours, np.ndarray | np.generic)
        assert ours.dtype == theirs.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


@given(values, st.sampled_from(PROTOCOLS))
@settings(deadline=None)
def test_plain_values_come_back(value, protocol):
    data = pickle.dumps(value, protocol)
    assert_same(safe_pickle.loads(data, "here"), pickle.loads(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_arrays_and_numpy_scalars_come_back(dtype, protocol):
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    value = {"c": array, "f": np.asfortranarray(array), "empty": array[:0], "none": array[0, 0, 0], "same": array}
    data = pickle.dumps(value, protocol)
    assert_same(safe_pickle.loads(data, "here"), pickle.loads(data))


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "task", ["pfam", "secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability"]
)
def test_records_written_by_numpy_1_come_back(task, protocol):
    record = tape_record(task, 3)
    data = dumps_numpy_1(record, protocol)
    assert (b"numpy.core." in data) == any(isinstance(value, np.ndarray) for value in record.values())
    assert_same(safe_pickle.loads(data, "here"), record)


def test_a_record_written_by_python_2_comes_back():
    raw = np.array([1.5, -2, 3], "<f4").tobytes()
    data = (
        b"\x80\x02}q\x00(U\x07primaryq\x01U\x03ACDq\x02U\x01xq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04"
        b"cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\t(K\x01K\x03\x85q\ncnumpy\ndtype\nq\x0b"
        b"U\x02f4q\x0cK\x00K\x01\x87q\rRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89U\x0c"
        + raw
        + b"q\x11tq\x12bu."
    )
    assert_same(safe_pickle.loads(data, "here"), pickle.loads(data, encoding="latin1"))
    protocol_0 = (
        b"(dp0\nS'primary'\np1\nS'A\\x43'\np2\nsS'n'\np3\nI7\nsS'long'\nL12345678901234567890L\nsS'f'\nF0.5\ns."
    )
    assert_same(safe_pickle.loads(protocol_0, "here"), pickle.loads(protocol_0, encoding="latin1"))


class Runs:
    """Would create a file if it were unpickled by Python."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def int8_array(state: bytes) -> bytes:
    """An array whose state is the given instructions."""
    return b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" + state + b"b."


INT8 = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00i1\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)

REFUSED = {
    "os.system": pickle.dumps(Runs("/nowhere")),
    "builtins.eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
    "collections.OrderedDict": pickle.dumps(OrderedDict(a=1)),
    "datetime.date": pickle.dumps(date(2020, 1, 1)),
    "builtins.complex": pickle.dumps(1j),
    "builtins.set": pickle.dumps({1}, 3),
    "copyreg._reconstructor": pickle.dumps(Runs, 2)
    .replace(b"Runs", b"_reconstructor")
    .replace(__name__.encode(), b"copyreg"),
    "not plain numbers: objects": pickle.dumps(np.array([None, "a"], dtype=object)),
    "not plain numbers: text": pickle.dumps(np.array(["a"])),
    "not plain numbers: dates": pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]")),
    "not plain numbers: complex": pickle.dumps(np.zeros(2, "c8")),
    "not plain numbers: records": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "instruction: instance": b"(ios\nsystem\n.",
    "instruction: object": b"(cnumpy\nndarray\no.",
    "instruction: new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "instruction: extension": b"\x80\x02\x82\x01.",
    "instruction: persistent": b"Pname\n.",
    "call: array made directly": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "call: str as function": b"X\x01\x00\x00\x00a)R.",
    "call: encode to a file": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
    "state: of a dict": b"}}b.",
    "state: structured": int8_array(b"(K\x01K\x01\x85" + INT8.replace(b"NNN", b"N)N") + b"\x89C\x01atb"[:-1]),
    "a type": b"cnumpy\nndarray\n.",
    "key": b"\x80\x02}K\x01\x85K\x01s.",
}


REASONS = {
    "os.system": f"it names '{os.system.__module__}.system', which is not plain data",
    "not plain numbers: objects": "an array of type 'O8', which is not plain numbers",
    "not plain numbers: text": "an array of type 'U1', which is not plain numbers",
    "not plain numbers: dates": "an array of type 'M8', which is not plain numbers",
    "not plain numbers: complex": "an array of type 'c8', which is not plain numbers",
    "not plain numbers: records": "an array of type 'V4', which is not plain numbers",
    "instruction: instance": "instruction b'i', which plain data does not need",
    "instruction: object": "instruction b'o', which plain data does not need",
    "instruction: new object": r"instruction b'\x81', which plain data does not need",
    "instruction: extension": r"instruction b'\x82', which plain data does not need",
    "instruction: persistent": "instruction b'P', which plain data does not need",
    "call: array made directly": "a call of <Name.ARRAY: 4>",
    "call: str as function": "a call of 'a'",
    "call: encode to a file": "a call of <Name.ENCODE: 6>",
    "state: of a dict": "a state for {}",
    "state: structured": "an array with a structured type",
    "a type": "a type where a value belongs",
    "key": "a key of type tuple",
}
"""Those that name something are refused for the name."""


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_with_the_record_and_the_reason(name):
    with pytest.raises(InputError) as error:
        safe_pickle.loads(REFUSED[name], "file: record 7")
    reason = REASONS.get(name, f"it names {name!r}, which is not plain data")
    assert str(error.value) == f"file: record 7: refused: {reason}"


def test_nothing_is_executed(tmp_path):
    path = tmp_path / "executed"
    for protocol in PROTOCOLS:
        with pytest.raises(InputError, match="refused"):
            safe_pickle.loads(pickle.dumps({"primary": "ACD", "id": Runs(path)}, protocol), "here")
    assert not path.exists()


def forged_array(shape: bytes, raw: bytes) -> bytes:
    return int8_array(b"(K\x01" + shape + INT8 + b"\x89" + raw + b"t")


BOMBS = {
    "huge string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "huge bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "huge shape": forged_array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"C\x01a"),
    "shape of nothing": forged_array(b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86", b"C\x00"),
    "negative shape": forged_array(b"J\xff\xff\xff\xff\x85", b"C\x01a"),
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b")" + b"\x85" * 100_000 + b".",
    "deep tuples as key": b"})" + b"\x85" * 100_000 + b"Ns.",
    "deep marks": b"(" * 100_000,
    "list in itself": b"]q\x00h\x00a.",
    "doubling tuples": b")" + b"q\x00h\x00\x86" * 60 + b".",
    "doubling tuples as key": b"})" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "wide lists": b"](" + b"K\x01" * 1000 + b"eq\x00](" + b"h\x00" * 1000 + b"eq\x01](" + b"h\x01" * 1000 + b"e.",
    "converted again and again": b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00"
    + b"a" * (1 << 20)
    + b"X\x06\x00\x00\x00latin1\x86q\x01"
    + b"h\x00h\x01R" * 1000
    + b".",
}


def test_a_memo_index_reserves_nothing():
    tracemalloc.start()
    try:
        assert safe_pickle.loads(b"\x80\x02]r\xff\xff\xff\xff.", "here") == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


TOO_MUCH = {
    "huge string": "it ends before its end",
    "huge bytes": "it ends before its end",
    "huge bytearray": "it ends before its end",
    "negative long": "an integer of 4294967295 bytes",
    "huge shape": "an array of shape (2147483647, 2147483647) with 1 bytes",
    "shape of nothing": "an array of shape (0, 9223372036854775807)",
    "negative shape": "an array of shape (-1,)",
    "deep tuples as key": "a key of type tuple",
    "doubling tuples as key": "a key of type tuple",
    "wide lists": "a value of more than 16777216 elements",
    "converted again and again": "calls that make more than 134217728 bytes",
}
"""The others are nested too deep."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_pickle_cannot_take_much_memory_or_time(name):
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            safe_pickle.loads(BOMBS[name], "here")
        assert str(error.value) == f"here: refused: {TOO_MUCH.get(name, 'values nested more than 16 deep')}"
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04}(\x8c\x01aK\x01", "not a readable pickle, at byte 9: index out of range"),
        (b"\x80\x04}(\x8c\x09a", "refused: it ends before its end"),
        (
            b"\x80\x04}(\x8c\x01\xffK\x01u.",
            "not a readable pickle, at byte 7: 'utf-8' codec can't decode byte 0xff in ",
        ),
        (b"\x80\x04}(\x8c\x01au.", "refused: items for something that is no dictionary"),
        (b"\x80\x04h\x05.", "not a readable pickle, at byte 4: 5"),
        (b"\x80\x04}(\xfe", r"refused: instruction b'\xfe', which plain data does not need"),
        (b"", "not a readable pickle, at byte 0: index out of range"),
    ],
)
def test_a_defect_is_named_with_its_byte(data: bytes, reason: str):
    with pytest.raises(InputError) as error:
        safe_pickle.loads(data, "here")
    assert str(error.value).startswith(f"here: {reason}")


class Reference(pickle.Unpickler):
    """Python's own unpickler, which may name what numpy's arrays need and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if name not in ("_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype", "encode", "bytes"):
            raise pickle.UnpicklingError(name)
        return super().find_class(module, name)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3), st.sampled_from(PROTOCOLS))
@example(10, b"\x80", 4)  # a frame of more bytes than there can be
@settings(deadline=None, max_examples=400, derandomize=True)
def test_damage_is_refused_behind_it_or_gives_what_python_reads(position: int, noise: bytes, protocol: int):
    original = tape_record("proteinnet", 1)
    data = bytearray(pickle.dumps(original, protocol))
    position %= len(data)
    with pytest.raises(InputError) as error:
        safe_pickle.loads(bytes(data[:position]), "here")
    assert_names_the_place(error.value, data, position)
    data[position : position + len(noise)] = noise
    try:
        value = safe_pickle.loads(bytes(data), "here")
    except InputError as refused:
        assert_names_the_place(refused, data, position)
        return
    try:
        expected = Reference(io.BytesIO(data), encoding="latin-1").load()
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, OverflowError):
        expected = original  # Python checks frames, the protocol and arguments on which no value depends
    assert_same(value, expected)


def assert_names_the_place(error: InputError, data: bytes | bytearray, position: int) -> None:
    """The damage begins at `position`: no fault can be found before it, or before the line of text that it is in."""
    match = re.fullmatch(r"here: (?:refused: .+|not a readable pickle, at byte (\d+): .*)", str(error), re.DOTALL)
    assert match, error
    assert match[1] is None or int(match[1]) > data.rfind(b"\n", 0, position)
