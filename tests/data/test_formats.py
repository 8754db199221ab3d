"""Every format reads as a naive reader has it, whatever the block size, and every defect is one line with its place."""

import gzip
import json
import lzma
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proteinlm import vocabulary
from proteinlm.data.formats import compression, fasta, tape
from proteinlm.data.formats.fasta import read_fasta
from proteinlm.data.formats.proteinnet import read_proteinnet
from proteinlm.data.formats.tape import read_json, read_lmdb
from proteinlm.errors import InputError
from tests.data.samples import (
    SHARED,
    assert_equal_records,
    dumps_numpy_1,
    ignore,
    needs_shared,
    protein,
    tape_record,
    write_lmdb,
)

OPEN = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def written(path: Path, content: bytes) -> Path:
    with OPEN[path.suffix if path.suffix in OPEN else ""](path, "wb") as file:
        file.write(content)
    return path


def proteins(path: Path) -> list[tuple[str, str]]:
    """Header lines and sequences as `read_fasta` gives them."""
    result = []
    for block in read_fasta(path, ignore):
        header = sequence = 0
        for header_length, length in zip(block.header_lengths, block.lengths, strict=True):
            line = block.headers[header : header + header_length].tobytes().decode()
            letters = block.letters[sequence : sequence + length].tobytes().decode()
            result.append((line.strip()[1:], letters))
            header, sequence = header + header_length, sequence + length
    return result


def naive(content: str) -> list[tuple[str, str]]:
    result: list[tuple[str, str]] = []
    for line in content.split("\n"):
        if line.startswith(">"):
            result.append((line.strip()[1:], ""))
        else:
            header, sequence = result.pop()
            result.append((header, sequence + "".join(line.split()).upper()))
    return result


breaks = st.sampled_from(["\n", "\r\n"])
letters = st.text(vocabulary.RESIDUES + vocabulary.RESIDUES.lower(), min_size=1, max_size=30)
headers = st.text(st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=["C", "Z"]), max_size=12)


@st.composite
def fasta_files(draw) -> str:
    content = ""
    for _ in range(draw(st.integers(1, 8))):
        content += ">" + draw(headers) + draw(breaks)
        for line in draw(st.lists(letters, min_size=1, max_size=4)):
            content += line + draw(st.sampled_from(["", " ", "\t"])) + draw(breaks) * draw(st.integers(1, 2))
    return content if draw(st.booleans()) else content.rstrip()


@given(fasta_files(), st.sampled_from(list(OPEN)), st.integers(1, 200), st.integers(1, 50))
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fasta_is_what_a_naive_parser_reads(tmp_path, monkeypatch, content, suffix, block, raw):
    monkeypatch.setattr(fasta, "BLOCK", block)
    monkeypatch.setattr(compression, "_RAW", raw)
    path = written(tmp_path / f"a.fasta{suffix}", content.encode())
    assert proteins(path) == naive(content)


def test_every_raw_byte_is_shown_once_and_in_order(tmp_path):
    content = f">a\n{protein(300_000)}\n".encode()
    for suffix in OPEN:
        path, seen = written(tmp_path / f"a.fasta{suffix}", content), bytearray()
        assert sum(len(block) for block in compression.read_blocks(path, seen.extend)) == len(content)
        assert seen == path.read_bytes()


def test_joined_and_padded_streams_are_one_file(tmp_path):
    (tmp_path / "a.fasta.gz").write_bytes(gzip.compress(b">a\nAC\n") + gzip.compress(b"DE\n>b\nF") + b"\0" * 512)
    (tmp_path / "a.fasta.xz").write_bytes(lzma.compress(b">a\nAC\n") + b"\0" * 4 + lzma.compress(b"DE\n>b\nF"))
    for suffix in (".gz", ".xz"):
        assert proteins(tmp_path / f"a.fasta{suffix}") == [("a", "ACDE"), ("b", "F")]


def test_a_byte_order_mark_is_no_letter(tmp_path):
    assert proteins(written(tmp_path / "a.fasta", b"\xef\xbb\xbf>a\nAC\n")) == [("a", "AC")]


BAD_FASTA = {
    "no FASTA records": b"",
    "no FASTA records ": b"\n \n\r\n",
    "line 2: a sequence without header": b"\nACD\n>a\nACD\n",
    "record 1 (b), line 3: a header without sequence": b">a\nACD\n>b\n>c\nACD\n",
    "record 1 (b), line 3: a header without sequence ": b">a\nACD\n>b x=y",
    "record 0 (a), line 3: letter 'J' at position 5 is not one of": b">a\nACD\r\nEJF\n",
    "record 1 (b), line 4: letter '*' at position 3 is not one of": b">a\nACD\n>b\nAC*\n",
    "record 0 (), line 2: letter '-' at position 1 is not one of": b">\n-\n",
    "record 0 (a), line 2: letter '\xc3' at position 2 is not one of": ">a\nAé\n".encode(),
    "record 0 (a), line 2: letter '1' at position 1 is not one of": b">a\n1 ACD\n",
    "record 0 (a), line 2: letter '>' at position 2 is not one of": b">a\nA>b\n",
    "record 0 (a), line 2: letter '\\x00' at position 1 is not one of": b">a\n\0ACD\n",
}


@pytest.mark.parametrize("message", BAD_FASTA)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_a_bad_fasta_is_one_line_with_the_place(tmp_path, monkeypatch, message, block):
    monkeypatch.setattr(fasta, "BLOCK", block)
    assert_one_line(written(tmp_path / "a.fasta", BAD_FASTA[message]), read_fasta, message.strip())


def assert_one_line(path: Path, reader, message: str) -> None:
    with pytest.raises(InputError) as error:
        consume(reader(path, ignore))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def consume(records: Iterable) -> None:
    for _ in records:
        pass


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("reader", [read_fasta, read_json])
def test_truncated_and_damaged_compression_is_noticed(tmp_path, suffix, reader):
    content = f">a\n{protein(5000)}\n" if reader is read_fasta else json.dumps([{"primary": protein(5000)}])
    path = written(tmp_path / f"a{suffix}", content.encode())
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_one_line(path, reader, "truncated")
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    assert_one_line(path, reader, "damaged")
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert_one_line(path, reader, "truncated" if reader is read_fasta else "after the end")
    path.write_bytes(whole + b"something else")
    assert_one_line(path, reader, "damaged")
    path.write_bytes(b"<html>403 Forbidden</html>")
    assert_one_line(path, reader, "damaged")


def test_a_file_without_an_end_of_record_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta, "MAX_RECORD", 1 << 20)
    monkeypatch.setattr(tape, "MAX_RECORD", 1 << 20)
    assert_one_line(written(tmp_path / "a.xz", b"A" * (8 << 20)), read_fasta, "not a FASTA file")
    assert_one_line(written(tmp_path / "b.xz", b'[{"primary": "' + b"A" * (8 << 20)), read_json, "record 0")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 20),
)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_is_what_the_whole_file_decodes_to(tmp_path, monkeypatch, records, indent, ascii_only, raw):
    monkeypatch.setattr(compression, "_RAW", raw)
    path = written(tmp_path / "a.json", json.dumps(records, indent=indent, ensure_ascii=ascii_only).encode() + b"\n")
    assert list(read_json(path, ignore)) == records


BAD_JSON = {
    "record 0: not a JSON list of records: the file is truncated": b"",
    "record 0: not a JSON list of records: '{' where '[' belongs": b'{"primary": "A"}',
    "record 0: not a JSON list of records: '<' where '[' belongs": b"<html>",
    "record 1: not a JSON list of records": b'[{"primary": "A"}, {"primary": "A"',
    "record 1: not a JSON list of records: Expecting property name": b'[{"primary": "A"}, {primary: "A"}]',
    "record 1: not a JSON list of records: the file is truncated": b'[{"primary": "A"}',
    "record 1: not a JSON list of records: '{' where ',' belongs": b'[{"primary": "A"} {"primary": "A"}]',
    "record 1: not a JSON list of records: 'x' after the end": b'[{"primary": "A"}] x',
    "record 0: not a dictionary of fields": b"[1]",
    "record 0: not a JSON list of records: 'utf-8'": b'[{"primary": "\xff"}]',
    "record 0: nested too deep": b'[{"a": ' + b"[" * 200_000,
}


@pytest.mark.parametrize("message", BAD_JSON)
def test_bad_json_is_one_line_with_the_record(tmp_path, message):
    assert_one_line(written(tmp_path / "a.json", BAD_JSON[message]), read_json, message)


@pytest.mark.parametrize("dumps", [pickle.dumps, dumps_numpy_1])
@pytest.mark.parametrize(
    "task", ["pfam", "secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability"]
)
def test_an_lmdb_of_tape_reads_back_field_by_field(tmp_path, task, dumps):
    records = [tape_record(task, index) for index in range(12)]  # b"10" sorts before b"2"
    write_lmdb(tmp_path / "a.lmdb", [dumps(record) for record in records])
    seen = bytearray()
    for ours, theirs in zip(read_lmdb(tmp_path / "a.lmdb", seen.extend), records, strict=True):
        assert_equal_records(ours, theirs)
    assert seen == (tmp_path / "a.lmdb/data.mdb").read_bytes()


def test_a_single_file_and_a_list_of_keys_are_lmdbs_too(tmp_path):
    write_lmdb(tmp_path / "a.lmdb", [pickle.dumps({"primary": "A"})])
    (tmp_path / "a.lmdb/data.mdb").rename(tmp_path / "b.lmdb")
    assert list(read_lmdb(tmp_path / "b.lmdb", ignore)) == [{"primary": "A"}]


def test_a_bad_lmdb_is_one_line_with_the_record(tmp_path):
    good = pickle.dumps({"primary": "ACD"})
    cases = {
        "num_examples is 3, but there are 2 records": ([good, good], pickle.dumps(3)),
        "num_examples is 1, but there are 2 records": ([good, good], pickle.dumps(1)),
        "num_examples is 'a', but": ([good], pickle.dumps("a")),
        "num_examples: refused: it names": ([good], pickle.dumps(print)),
        "record 1: refused: it names": ([good, pickle.dumps({"primary": print})], None),
        "record 1: not a readable pickle": ([good, b"]."[1:]], None),
        "record 1: not a dictionary of fields": ([good, pickle.dumps([1])], None),
    }
    for index, (message, (values, count)) in enumerate(cases.items()):
        write_lmdb(tmp_path / f"{index}.lmdb", values, count)
        assert_one_line(tmp_path / f"{index}.lmdb", read_lmdb, message)


def test_a_damaged_lmdb_is_one_line(tmp_path):
    path = tmp_path / "a.lmdb"
    write_lmdb(path, [pickle.dumps({"primary": protein(400, index)}) for index in range(200)])
    content = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(content[: len(content) // 2])
    assert_one_line(path, read_lmdb, "truncated")
    (path / "data.mdb").write_bytes(b"not a database" * 1000)
    assert_one_line(path, read_lmdb, "not a readable LMDB")
    (path / "data.mdb").unlink()
    assert_one_line(path, read_lmdb, "no data.mdb")


def proteinnet_text(records: list[dict]) -> str:
    """Records as ProteinNet's text files have them, with made-up N and C atoms."""
    text = ""
    for record in records:
        text += f"[ID]\n{record['id']}\n[PRIMARY]\n{record['primary']}\n[EVOLUTIONARY]\n"
        text += "".join("\t".join(map(str, row)) + "\n" for row in record["evolutionary"].T)
        if "secondary" in record:
            text += f"[SECONDARY]\n{record['secondary']}\n"
        atoms = np.repeat(100 * record["tertiary"], 3, axis=0)
        atoms[0::3] -= 146
        atoms[2::3] += 152
        text += "[TERTIARY]\n" + "".join("\t".join(map(str, row)) + "\n" for row in atoms.T)
        text += "[MASK]\n" + "".join("+" if valid else "-" for valid in record["valid_mask"]) + "\n\n"
    return text


@pytest.mark.parametrize("suffix", OPEN)
def test_proteinnet_text_reads_as_tape_has_it(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(compression, "_RAW", 100)
    records = [tape_record("proteinnet", index) for index in range(5)]
    records = [record | {"id": record["id"].decode()} for record in records]
    records[2]["secondary"] = "H" * records[2]["protein_length"]
    path = written(tmp_path / f"a.txt{suffix}", proteinnet_text(records).encode())
    for ours, theirs in zip(read_proteinnet(path, ignore), records, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(ours.pop("tertiary"), theirs["tertiary"], rtol=1e-5)
        np.testing.assert_allclose(ours.pop("evolutionary"), theirs["evolutionary"], rtol=1e-6)
        assert_equal_records(ours, {name: theirs[name] for name in ours})


def test_bad_proteinnet_text_is_one_line_with_the_record(tmp_path):
    text = proteinnet_text([tape_record("proteinnet", 1) | {"id": "a"}, tape_record("proteinnet", 2) | {"id": "b"}])
    last = text.index("[ID]\nb")
    cases = {
        "line 1: 'ACD' before the first [ID]": "ACD\n" + text,
        "record 1 (b): no [PRIMARY]": text[:last] + "[ID]\nb\n",
        "record 1 (b): [MASK] has something else": text[:last] + text[last:].replace("+", "?"),
        "record 1, line": text + "[MASK]\n+\n",
        "record 1 (b): [EVOLUTIONARY] has 20 lines, not 21": text[:last]
        + re.sub(r"\n.*\n\[TERTIARY\]", "\n[TERTIARY]", text[last:]),
        "in its line 3, not": text[:last] + re.sub(r"\t\S+\n\[MASK\]", "\n[MASK]", text[last:]),
        "record 1 (b): [EVOLUTIONARY]: could not convert": text[:last] + text[last:].replace("\t0.", "\tx.", 1),
    }
    for message, content in cases.items():
        assert_one_line(written(tmp_path / "a.txt", content.encode()), read_proteinnet, message)


@needs_shared
def test_real_fasta_is_what_a_naive_parser_reads():
    path = SHARED / "pretrain/pretrain_valid.fasta.xz"
    with lzma.open(path, "rt") as file:
        assert proteins(path) == naive(file.read().strip())


@needs_shared
@pytest.mark.parametrize("name", ["secondary_structure/secondary_structure_ts115", "proteinnet/proteinnet_test"])
def test_real_json_is_what_the_whole_file_decodes_to(name):
    path = SHARED / f"tape/{name}.json.gz"
    with gzip.open(path) as file:
        assert list(read_json(path, ignore)) == json.load(file)
