"""Alignments given on the command line become contact maps and scores of variants, those of the model fitted to them."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm.data.alignments.reading import read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.inference import potts as commands
from proteinlm.models import potts
from proteinlm.models.contact_evidence import add_evidence
from proteinlm.models.potts import states_of
from tests.inference.alignment_samples import CPU, QUERY, fitted, write_a3m
from tests.inference.commands import assert_refused, run


@pytest.fixture
def a3m(tmp_path: Path) -> Path:
    return write_a3m(tmp_path / "first.a3m", QUERY)


def expected(path: Path, **chosen: float) -> np.ndarray:
    letters = read_alignment(path).letters
    weights = torch.from_numpy(sequence_weights(letters)).float()
    return add_evidence(fitted(path).contacts(), torch.from_numpy(states_of(letters)), weights, **chosen).numpy()


def test_contacts_of_alignments(tmp_path: Path, a3m: Path):
    """A map of each; what was finished before an interruption is not fitted again."""
    second = tmp_path / "second.2.fasta"  # as a version of a sequence ends
    second.write_text(a3m.read_text().replace(QUERY, QUERY[::-1]))
    bad = tmp_path / "third.a3m"
    bad.write_text(">q\nAC\n>b\nA\n")
    out = tmp_path / "maps.npz"
    each = [word for path in (a3m, second) for word in ("--alignment", path)]
    code, _, errors = run("contacts", *each, "--alignment", bad, "--out", out, *CPU)
    assert code == 2
    assert errors.splitlines()[-1].endswith(
        "third.a3m: record 1 (b) has 1 columns, the query 2; kept for the next run: 2 finished alignments"
    )
    code, _, errors = run("contacts", *each, "--out", out, "--pictures", tmp_path / "pictures", *CPU)
    assert (code, errors) == (0, "")  # nothing was fitted
    with np.load(out) as maps:
        assert list(maps) == ["first", "second.2"]
        for name, path in (("first", a3m), ("second.2", second)):
            np.testing.assert_array_equal(maps[name], expected(path))
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["first.png", "second.2.png"]
    for chosen in ({"neighbours": 0.5}, {"potential": 0}, {"potential": 1.5, "neighbours": 0}):
        words = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        assert run("contacts", "--alignment", a3m, *words, "--out", out, *CPU)[0] == 0
        with np.load(out) as maps:
            np.testing.assert_array_equal(maps["first"], expected(a3m, **chosen))


@pytest.mark.parametrize("control", [False, True])
def test_scores_are_differences_of_energies(tmp_path: Path, a3m: Path, control: bool):
    """The alignment begins at the third residue of the protein."""
    (tmp_path / "wt.fasta").write_text(f">wt\nMK{QUERY}W\n")
    first, last = f"{QUERY[0]}3{'W' if QUERY[0] != 'W' else 'A'}", f"{QUERY[11]}14{'Y' if QUERY[11] != 'Y' else 'A'}"
    rows = ["", first, f"{first}:{last}", "M1A", f"{QUERY[1]}4X"]
    (tmp_path / "variants.csv").write_text("mutant\n" + "\n".join(f'"{row}"' for row in rows) + "\n")
    out = tmp_path / "out.csv"
    words = ["score", tmp_path / "wt.fasta", tmp_path / "variants.csv", "--out", out, "--alignment", a3m, *CPU]
    words += ["--site-independent"] if control else []
    assert_refused(run(*words), "variants.csv: line 5: M1A: outside the alignment; --skip-unknown leaves such out")
    code, _, errors = run(*words, "--skip-unknown")
    assert code == 0
    assert "first.a3m: 21 rows, 12 columns, effective depth " in errors
    assert f"no score for 2 unknown variants: line 5: M1A, line 6: {QUERY[1]}4X" in errors
    model = fitted(a3m, not control)
    query = states_of(np.frombuffer(QUERY.encode(), np.uint8))
    once, twice = query.copy(), query.copy()
    once[0] = twice[0] = potts.AMINO_ACIDS.index(first[-1])
    twice[11] = potts.AMINO_ACIDS.index(last[-1])
    energies = model.energies(torch.from_numpy(np.stack([query, once, twice]))).numpy()
    with out.open() as file:
        found = [row["score"] for row in csv.DictReader(file)]
    np.testing.assert_allclose([float(value) for value in found[:3]], energies[0] - energies, atol=1e-4)
    assert found[3:] == ["", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f">q\n{QUERY}\n", "the query alone: no relatives"),
        ("", "an empty alignment"),
        (f">b\n{'A' * 12}\n>q\n{QUERY}\n", "the protein is row 1 (q), not the first: put it first"),
        (f">q\n{'-' * 12}\n>b\n{QUERY}\n", "record 0 (q) has no residue"),
    ],
)
def test_alignments_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.a3m").write_text(text)
    (tmp_path / "wt.fasta").write_text(f">wt\n{QUERY}\n")
    (tmp_path / "variants.csv").write_text(f"mutant\n{QUERY[0]}1{'W' if QUERY[0] != 'W' else 'A'}\n")
    words = ("--alignment", tmp_path / "x.a3m", "--out", tmp_path / "out.csv", *CPU)
    assert_refused(run("score", tmp_path / "wt.fasta", tmp_path / "variants.csv", *words), message)


def test_what_does_not_go_together_is_refused(tmp_path: Path, a3m: Path):
    out = ("--out", tmp_path / "out.npz")
    assert_refused(run("contacts", a3m, "--alignment", a3m, *out), "name either proteins, or alignments")
    for words, option in itertools.product(
        ((a3m,), ("--alignment", a3m, "--model", tmp_path)), ("--neighbours", "--potential")
    ):
        assert_refused(run("contacts", *words, option, "0.25", *out), f"{option} is of a Potts model")
    assert_refused(run("contacts", *out), "name proteins, IN.fasta, and --model DIR; or an alignment")
    assert_refused(
        run("contacts", "--alignment", a3m, "--alignment", a3m, *out), "another alignment has the name first too"
    )
    assert_refused(
        run("score", a3m, a3m, "--out", tmp_path / "out.csv", "--site-independent"), "name one by --alignment"
    )


def test_an_alignment_in_the_place_of_proteins_is_recognised(tmp_path: Path, a3m: Path):
    aligned = tmp_path / "aligned.fasta"
    aligned.write_text(f">q\n{QUERY}\n>b\n-{QUERY[1:]}\n")
    message = "record 1 (b), line 4: letter '-' at position 1 is not one of"
    outcome = run("pppl", aligned)
    assert_refused(outcome, message)
    assert "take an alignment by --alignment" in outcome[2]


def test_couplings_that_memory_cannot_hold_are_refused(tmp_path: Path, a3m: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "free_memory", lambda device: 100_000.0)
    assert_refused(
        run("contacts", "--alignment", a3m, "--out", tmp_path / "out.npz", *CPU),
        "first.a3m: couplings of 12 columns take",
    )
