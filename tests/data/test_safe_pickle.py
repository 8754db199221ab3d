"""A pickle of plain data gives what Python's unpickler gives; any other is refused, unexecuted, in bounded memory."""

import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
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


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_with_the_record(name):
    with pytest.raises(InputError, match=r"^file: record 7: refused: ") as error:
        safe_pickle.loads(REFUSED[name], "file: record 7")
    assert "\n" not in str(error.value)
    if ":" not in name and "." in name:
        assert name.replace("os.", f"{os.system.__module__}.") in str(error.value)


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


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_pickle_cannot_take_much_memory_or_time(name):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"^here: "):
            safe_pickle.loads(BOMBS[name], "here")
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_damage_is_an_input_error_or_plain_data(position, noise):
    data = bytearray(pickle.dumps(tape_record("proteinnet", 1)))
    position %= len(data)
    data[position : position + len(noise)] = noise
    for damaged in (bytes(data), bytes(data[:position])):
        with suppress(InputError):
            safe_pickle.loads(damaged, "here")
