"""Windows hold every record of a FASTA file once and in order, up to the first that cannot be used."""

import gzip
from pathlib import Path

import pytest

from proteinlm.data.formats import fasta
from proteinlm.errors import InputError
from proteinlm.inference import proteins
from tests.data.samples import protein

LENGTHS = (30, 5, 5, 60, 1, 18)
CONTENT = "".join(f">p{number} of length {length}\n{protein(length)}\n" for number, length in enumerate(LENGTHS))


def windows(path: Path, tokens: int = 40) -> tuple[list[list[str]], str]:
    """Names by window, and the error that ended them."""
    found = []
    try:
        for window in proteins.windows(proteins.read(path, 100), tokens):
            found.append([protein.name for protein in window])
    except InputError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_windows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, suffix: str):
    monkeypatch.setattr(fasta, "BLOCK", block)
    path = tmp_path / f"a.fasta{suffix}"
    path.write_bytes(gzip.compress(CONTENT.encode()) if suffix else CONTENT.encode())
    assert windows(path) == ([["p0", "p1", "p2"], ["p3"], ["p4", "p5"]], "")
    assert [protein.letters.tobytes().decode() for protein in proteins.read(path, 100)] == [
        protein(length) for length in LENGTHS
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (">p4 again\nACD\n", "record 6 (p4): a name that came before"),
        (">p6\nACJ\n", "record 6 (p6), line 14: letter 'J' at position 3"),
        (">p6\n>p7\nACD\n", "record 6 (p6), line 13: a header without sequence"),
        (f">p6\n{'A' * 101}\n", "record 6 (p6): 101 residues, more than the 100 that the model has positions for"),
    ],
)
def test_what_came_before_a_bad_record_is_given(tmp_path: Path, bad: str, message: str):
    path = tmp_path / "a.fasta"
    path.write_text(CONTENT + bad + ">later\nACD\n")
    found, error = windows(path)
    assert found == [["p0", "p1", "p2"], ["p3"], ["p4", "p5"]]
    assert error.startswith(f"{path}: {message}")


def test_a_record_without_a_name_has_its_number(tmp_path: Path):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nACD\n>\nAC\n> no name\nA\n>\tb\nA\n")
    assert windows(path) == ([["a", "record_1", "record_2", "record_3"]], "")
    path.write_text(">record_1\nACD\n>\nAC\n")
    assert windows(path)[1].endswith("record 1 (record_1): a name that came before")


def test_files_that_cannot_be_read(tmp_path: Path):
    assert windows(tmp_path / "nowhere.fasta") == ([], f"{tmp_path}/nowhere.fasta: No such file or directory")
    assert windows(tmp_path)[1].endswith("Is a directory")
