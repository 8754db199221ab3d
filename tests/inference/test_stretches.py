"""Of a protein that is longer than a model's positions, what its windows say of a residue or a pair is averaged."""

import csv
from pathlib import Path

import numpy as np
import pytest

from proteinlm import load
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts, writers
from proteinlm.inference.attention_contacts import Readout
from proteinlm.inference.likelihoods import masked_log_probabilities
from proteinlm.inference.stretches import Stretches
from proteinlm.vocabulary import IDS
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import CONFIG, saved

LONG, SHORT = protein(300, 1), protein(120, 2)
"""The model has positions for 127 residues."""
BEGINS = (0, 60, 120, 180, 200)
WINDOWS = ("--window", 100, "--overlap", 40, "--device", "cpu", "--batch-tokens", 250)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = saved(tmp_path_factory.mktemp("model"))
    loaded, heads = load(directory, device="cpu"), CONFIG.num_layers * CONFIG.num_heads
    weights = np.linspace(-3, 5, heads).tolist()
    attention_contacts.save(Readout(loaded.fingerprint, weights, -1.0, [3, 1], 1, {}), directory)
    return directory


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text(f">short\n{SHORT}\n>long\n{LONG}\n")
    return path


def letters(sequence: str) -> np.ndarray:
    return np.frombuffer(sequence.encode(), np.uint8)


def pieces_with(residue: int) -> list[int]:
    """Where the windows begin that have a residue of the long protein."""
    return [begin for begin in BEGINS if begin <= residue < begin + 100]


def states(model: Path) -> np.ndarray:
    """The states (L, H) of the long protein, residue by residue."""
    alone = load(model, device="cpu")
    read = {begin: alone.embed([LONG[begin : begin + 100]], "residue")[0] for begin in BEGINS}
    return np.array([np.mean([read[b][residue - b] for b in pieces_with(residue)], axis=0) for residue in range(300)])


def log_probabilities(model: Path) -> np.ndarray:
    """Those of the tokens (L, V) at each residue of the long protein, hidden by itself."""
    alone = load(model, device="cpu")
    read = {b: masked_log_probabilities(alone, letters(LONG[b : b + 100]), np.arange(100)) for b in BEGINS}
    return np.array([np.mean([read[b][residue - b] for b in pieces_with(residue)], axis=0) for residue in range(300)])


def test_windows_begin_in_equal_steps_and_the_last_ends_with_the_protein():
    stretches = Stretches.choose(100, 40, 127)
    assert stretches
    assert [part.start for part in stretches.of(300)] == list(BEGINS)
    assert all(part.stop - part.start == 100 for part in stretches.of(300))
    assert [part.start for part in stretches.of(160)] == [0, 60], "nothing twice"
    assert Stretches.choose(100, None, 127) == Stretches(100, 50)
    assert Stretches.choose(127, 0, 127) == Stretches(127, 0)
    assert Stretches.choose(0, None, 127) is None


def test_embeddings_are_means_over_the_windows_of_a_residue(model: Path, fasta: Path, tmp_path: Path):
    wanted, alone = states(model), load(model, device="cpu")
    of_windows = alone.embed([LONG[begin : begin + 100] for begin in BEGINS], "cls").mean(axis=0)
    for pooling, long, (short,) in (
        ("residue", wanted, alone.embed([SHORT], "residue")),
        ("mean", wanted.mean(axis=0), alone.embed([SHORT], "mean")),
        ("cls", of_windows, alone.embed([SHORT], "cls")),
    ):
        output = tmp_path / f"{pooling}.npz"
        assert run("embed", fasta, "--model", model, "--out", output, "--pooling", pooling, *WINDOWS)[0] == 0
        found = dict(np.load(output))
        found = found if pooling == "residue" else dict(zip(found["ids"], found["embeddings"], strict=True))
        np.testing.assert_allclose(found["long"], long, atol=1e-5)
        np.testing.assert_allclose(found["short"], short, atol=1e-5)
    loaded = load(model, device="cpu", window=100, overlap=40)
    np.testing.assert_allclose(loaded.embed([LONG], "residue")[0], wanted, atol=1e-5)


def test_scores_and_pseudo_perplexities_are_of_mean_log_probabilities(model: Path, fasta: Path, tmp_path: Path):
    changes = [(5, "W"), (150, "A"), (299, "Y")]
    wild, mutants = tmp_path / "wt.fasta", tmp_path / "mutants.csv"
    wild.write_text(f">long\n{LONG}\n")
    names = [f"{LONG[place]}{place + 1}{letter}" for place, letter in changes]
    mutants.write_text("\n".join(["mutant", *names, ":".join(names)]) + "\n")
    output = tmp_path / "out.csv"
    assert run("score", wild, mutants, "--model", model, "--out", output, *WINDOWS)[0] == 0
    found = [float(row["score"]) for row in csv.DictReader(output.open())]
    logs = log_probabilities(model)
    each = [logs[place, IDS[letter]] - logs[place, IDS[LONG[place]]] for place, letter in changes]
    np.testing.assert_allclose(found, [*each, sum(each)], atol=1e-4)
    assert run("pppl", fasta, "--model", model, "--out", tmp_path / "pppl.csv", *WINDOWS)[0] == 0
    values = {row["id"]: float(row["pseudo_perplexity"]) for row in csv.DictReader((tmp_path / "pppl.csv").open())}
    right = [logs[place, IDS[letter]] for place, letter in enumerate(LONG)]
    np.testing.assert_allclose(values["long"], np.exp(-np.mean(right)), rtol=1e-4)


@pytest.mark.parametrize("method", ["regression", "best-heads"])
def test_maps_are_means_and_pairs_of_no_window_have_no_value(model: Path, fasta: Path, tmp_path: Path, method: str):
    output, pictures = tmp_path / "maps.npz", tmp_path / "pictures"
    command = ("contacts", fasta, "--model", model, "--out", output, "--method", method, "--pictures", pictures)
    assert run(*command, *WINDOWS)[0] == 0
    alone = load(model, device="cpu")
    readout = attention_contacts.load(alone, model)
    read = readout.probabilities if method == "regression" else readout.mean_of_best
    maps = {begin: read(alone, letters(LONG[begin : begin + 100])).numpy() for begin in BEGINS}
    wanted = np.full((300, 300), np.nan)
    for i in range(300):
        for j in range(300):
            both = [begin for begin in pieces_with(i) if begin in pieces_with(j)]
            if both:
                wanted[i, j] = np.mean([maps[begin][i - begin, j - begin] for begin in both])
    found = np.load(output)
    assert np.isnan(found["long"][0, 100])
    np.testing.assert_allclose(found["long"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["short"], read(alone, letters(SHORT)), atol=1e-6)
    assert (pictures / "long.png").read_bytes().startswith(b"\x89PNG")


def test_other_windows_are_other_results(model: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a killed command left is not taken for that of another window."""

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    command = ("embed", fasta, "--model", model, "--out", tmp_path / "out.npz", *WINDOWS[4:], "--window")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(writers, "write_npz", killed)
        run(*command, 100)
    assert list(tmp_path.glob(".out.npz.parts/*"))
    assert run(*command, 50)[0] == 0
    wanted = load(model, device="cpu", window=50).embed([SHORT, LONG])
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["embeddings"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "in.fasta: record 1 (long): 300 residues, more than the 127 that the model has positions for; --window 127",
        ),
        (("--window", 128), "--window 128 is not from 1 to 127, which the model has positions for"),
        (("--window", -1), "--window -1 is not from 1 to 127"),
        (("--window", 10, "--overlap", 10), "--overlap 10 is not from 0 to 9"),
        (("--overlap", 10), "--overlap 10 is of windows: name their residues by --window"),
    ],
)
def test_what_cannot_be_read_is_refused(model: Path, fasta: Path, tmp_path: Path, words: tuple, message: str):
    assert_refused(run("pppl", fasta, "--model", model, "--device", "cpu", *words), message)
    embed = ("embed", fasta, "--model", model, "--out", tmp_path / "out.npz", "--device", "cpu", *words)
    assert_refused(run(*embed), message)


def test_the_library_names_its_own_knob(model: Path):
    with pytest.raises(InputError, match=r"protein 0: 300 residues, .*; window=127 reads it in windows"):
        load(model, device="cpu").embed([LONG])
