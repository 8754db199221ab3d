"""Energies of whole proteins are those of the model fitted to the alignment, which can be saved, read and gone on with."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from proteinlm.data.alignments.reading import read_alignment
from proteinlm.inference import energies
from proteinlm.interop import plmc
from proteinlm.models.potts import GAP_STATE, states_of
from tests.data.samples import protein
from tests.inference.alignment_samples import CPU, QUERY, fitted, write_a3m
from tests.inference.commands import assert_refused, run


@pytest.fixture
def a3m(tmp_path: Path) -> Path:
    return write_a3m(tmp_path / "first.a3m", QUERY)


def test_energies_are_those_of_the_model(tmp_path: Path, a3m: Path, monkeypatch: pytest.MonkeyPatch):
    """By the alignment and by the saved model; gaps and unknown letters count as gaps, insert states not at all."""
    monkeypatch.setattr(energies, "AT_ONCE", 2)
    designed = tmp_path / "designed.a3m"
    rows = [QUERY, protein(12, 9), f"--{QUERY[2:]}", f"{QUERY[:5]}kk{QUERY[5:]}", f"X{QUERY[1:]}"]
    designed.write_text("".join(f">d{number} of mine\n{row}\n" for number, row in enumerate(rows)))
    states = states_of(np.array([[*row.replace("k", "").encode()] for row in rows], np.uint8))
    assert states[2, 0] == states[4, 0] == GAP_STATE
    for control in (False, True):
        expected = fitted(a3m, not control).energies(torch.from_numpy(states)).double().numpy()
        words = ["--site-independent"] if control else []
        out = tmp_path / "out.csv"
        code, said, errors = run("energies", designed, "--alignment", a3m, "--out", out, *words, *CPU)
        assert (code, said) == (0, "")
        assert "first.a3m: 21 rows, 12 columns" in errors
        found = list(csv.DictReader(StringIO(out.read_text())))
        assert [row["id"] for row in found] == ["d0", "d1", "d2", "d3", "d4"]
        np.testing.assert_allclose([float(row["energy"]) for row in found], expected, rtol=1e-5)
        np.testing.assert_allclose([float(row["score"]) for row in found], expected[0] - expected, atol=1e-4)
    assert run("couplings", a3m, "--out", tmp_path / "saved", *CPU)[0] == 0
    code, said, _ = run("energies", designed, "--couplings", tmp_path / "saved/first.model", *CPU)
    assert code == 0
    expected = fitted(a3m).energies(torch.from_numpy(states)).double().numpy()
    np.testing.assert_allclose([float(row["energy"]) for row in csv.DictReader(StringIO(said))], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("x.sto", {"q/1-6": "MK-.TAYI", "b": "MRWWTA-I"}),  # two columns in which the query has no residue
        ("x.a2m", {"q/1-6": "mkTAYI", "b": "TAYV"}),  # two residues of the query outside of a profile
    ],
)
def test_an_alignment_has_energies_by_its_own_model(tmp_path: Path, name: str, rows: dict[str, str]):
    path = tmp_path / name
    stockholm = name.endswith("sto")
    lines = [f"{each} {row}\n" if stockholm else f">{each}\n{row}\n" for each, row in rows.items()]
    path.write_text("".join(["# STOCKHOLM 1.0\n" if stockholm else "", *lines, "//\n" if stockholm else ""]))
    alignment = read_alignment(path)
    expected = fitted(path).energies(torch.from_numpy(states_of(alignment.letters)))
    assert run("couplings", path, "--out", tmp_path, *CPU)[0] == 0
    for words in (("--alignment", path), ("--couplings", tmp_path / "x.model")):
        code, said, _ = run("energies", path, *words, *CPU)
        assert code == 0
        found = {row["id"]: float(row["energy"]) for row in csv.DictReader(StringIO(said))}
        assert found == pytest.approx(dict(zip(rows, expected.tolist(), strict=True)), rel=1e-4)
    other = path.with_stem("other")
    other.write_text(path.read_text().replace("TAYI", "TAYV"))
    assert_refused(run("energies", other, "--alignment", path, *CPU), "align it to that first")


def test_couplings_are_fitted_once(tmp_path: Path, a3m: Path):
    """A killed command keeps what it has; an alignment that was changed is fitted again."""
    second, bad = write_a3m(tmp_path / "second.a3m", QUERY[::-1]), tmp_path / "third.a3m"
    bad.write_text(">q\nAC\n")
    out = tmp_path / "saved"
    code, said, errors = run("couplings", a3m, second, bad, "--out", out, *CPU)
    assert code == 2
    assert "third.a3m: the query alone" in errors.splitlines()[-1]
    code, said, errors = run("couplings", a3m, second, "--out", out, *CPU)
    assert (code, errors) == (0, "")  # nothing was fitted
    assert said.split() == [str(out / "first.model"), str(out / "second.model")]
    torch.testing.assert_close(plmc.read(out / "second.model").model.couplings, fitted(second).couplings)
    write_a3m(a3m, QUERY[::-1])
    code, _, errors = run("couplings", a3m, second, "--out", out, *CPU)
    assert code == 0
    assert "first.a3m" in errors
    assert "second.a3m" not in errors
    assert plmc.read(out / "first.model").query.tobytes().decode() == QUERY[::-1]
    assert sorted(json.loads((out / "alignments.json").read_text())) == ["first", "second"]
    (out / "alignments.json").write_text("{")
    assert "second.a3m" in run("couplings", second, "--out", out, *CPU)[2]
    assert_refused(run("couplings", a3m, a3m, "--out", out, *CPU), "another alignment has the name first too")


def test_a_model_without_a_query_gives_no_scores(tmp_path: Path, a3m: Path):
    nobody = np.full(12, ord("-"), np.uint8)
    model, states = fitted(a3m), states_of(np.array([[*QUERY.encode()]], np.uint8))
    plmc.write(tmp_path / "x.model", model, states, np.ones(1), nobody)
    (tmp_path / "one.fasta").write_text(f">one\n{QUERY}\n")
    code, said, _ = run("energies", tmp_path / "one.fasta", "--couplings", tmp_path / "x.model", *CPU)
    assert code == 0
    (row,) = csv.DictReader(StringIO(said))
    assert float(row["energy"]) == pytest.approx(float(model.energies(torch.from_numpy(states))), rel=1e-5)
    assert row["score"] == ""


def test_what_cannot_be_is_refused(tmp_path: Path, a3m: Path, monkeypatch: pytest.MonkeyPatch):
    one = tmp_path / "one.fasta"
    one.write_text(f">one\n{QUERY}\n>two\n{QUERY[1:]}\n")
    assert_refused(
        run("energies", one, "--alignment", a3m, *CPU),
        f"one.fasta: record 1 (two) has 11 columns, {a3m} 12: align it to that first",
    )
    assert_refused(run("energies", one, *CPU), "name either an alignment")
    assert_refused(run("energies", one, "--alignment", a3m, "--couplings", a3m, *CPU), "name either an alignment")
    assert_refused(run("energies", one, "--couplings", a3m, *CPU), "first.a3m: not a Potts model of plmc")
    assert_refused(run("energies", one, "--couplings", a3m, "--site-independent", *CPU), "is fitted to an alignment")
    assert_refused(run("energies", one, "--alignment", a3m, "--out", a3m, *CPU), "ends in none of")
    assert_refused(run("energies", one, "--alignment", a3m, "--out", tmp_path / "x.fasta", *CPU), "only secondary")
    run("couplings", a3m, "--out", tmp_path / "saved", *CPU)
    monkeypatch.setattr(energies, "free_memory", lambda device: 1000.0)
    saved = tmp_path / "saved/first.model"
    assert_refused(run("energies", one, "--couplings", saved, *CPU), "first.model: its couplings take 0.0 GB")
