"""Windows hold every record of a FASTA file once and in order, up to the first that cannot be used."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from proteinlm import load, vocabulary
from proteinlm.data.formats import fasta
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts, proteins
from proteinlm.inference.attention_contacts import Readout
from proteinlm.inference.likelihoods import masked_log_probabilities, pseudo_perplexity
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import saved

LENGTHS = (30, 5, 5, 60, 1, 18)
CONTENT = "".join(f">p{number} of length {length}\n{protein(length)}\n" for number, length in enumerate(LENGTHS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, with a readout of its contacts as a fit would save it."""
    directory = saved(tmp_path_factory.mktemp("model"))
    weights = load(directory, device="cpu").fingerprint
    attention_contacts.save(Readout(weights, [1.0] * 8, -1.0, [3], 1, {}), directory)
    return directory


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


DIRTY = {"clean": ">a\nMK-TA.Y*\n>b\nACDE*\n", "unknown": ">a\nMKTJAY*\n>b\nACDE\n"}
PLAIN = {"clean": ">a\nMKTAY\n>b\nACDE\n", "unknown": ""}
COUNTS = {
    "clean": "letters=clean: dropped 2 stops at the end, 2 gaps",
    "unknown": "letters=unknown: dropped 1 stops at the end; took 1 letters as [UNK] ('J' 1 times)",
}


@pytest.mark.parametrize("letters", ["clean", "unknown"])
@pytest.mark.parametrize("command", ["embed", "pppl", "contacts", "score"])
def test_every_command_reads_letters_as_asked(model: Path, tmp_path: Path, command: str, letters: str):
    outputs = {}
    for kind, content in (("dirty", DIRTY[letters]), ("plain", PLAIN[letters])):
        fasta, out = tmp_path / f"{kind}.fasta", tmp_path / f"{kind}.{'csv' if command in ('pppl', 'score') else 'npz'}"
        fasta.write_text(content if command != "score" else content.split(">b")[0])
        (tmp_path / "mutants.csv").write_text("mutant\nK2A\n")
        inputs = (fasta, tmp_path / "mutants.csv") if command == "score" else (fasta,)
        arguments = (command, *inputs, "--model", model, "--out", out, "--device", "cpu")
        if kind == "plain" and not content:
            continue
        if kind == "dirty":
            assert_refused(run(*arguments), f"{fasta}: record 0 (a), line 2: letter")
            assert_refused(run(*arguments, "--letters", "all"), "--letters=all is not one of")
            code, _, errors = run(*arguments, "--letters", letters)
            assert errors.startswith(f"{fasta}: letters={letters}: ")
            assert command == "score" or errors == f"{fasta}: {COUNTS[letters]}\n"
        else:
            code, _, errors = run(*arguments)
            assert not errors
        assert code == 0
        outputs[kind] = dict(np.load(out)) if out.suffix == ".npz" else out.read_text()
    if letters == "clean":
        np.testing.assert_equal(outputs["dirty"], outputs["plain"])


def test_an_unknown_residue_is_computed_as_unk_and_has_no_likelihood(model: Path):
    loaded = load(model, device="cpu")
    letters = np.frombuffer(b"MKT?AY", np.uint8)
    hidden = loaded.pool([letters], "residue")[0]
    assert len(hidden) == 6
    assert np.abs(hidden - loaded.pool([np.frombuffer(b"MKTXAY", np.uint8)], "residue")[0]).max() > 0.01
    known = np.array([0, 1, 2, 4, 5])
    logs = masked_log_probabilities(loaded, letters, known)[np.arange(5), vocabulary.encode("MKTAY")]
    assert pseudo_perplexity(loaded, letters) == pytest.approx(np.exp(-logs.mean()), rel=1e-5)
    assert np.isnan(pseudo_perplexity(loaded, letters[3:4]))


def test_files_that_cannot_be_read(tmp_path: Path):
    assert windows(tmp_path / "nowhere.fasta") == ([], f"{tmp_path}/nowhere.fasta: No such file or directory")
    assert windows(tmp_path)[1].endswith("Is a directory")
