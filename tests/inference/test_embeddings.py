"""``proteinlm embed`` writes what `Model.embed` gives, in constant memory, and never computes a finished window again."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from proteinlm import load
from proteinlm.inference import writers
from proteinlm.inference.model import Model
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import saved

SEQUENCES = {f"sp|P{number:03d}": protein(5 + 37 * number % 111, number) for number in range(40)}
MODEL = ("--device", "cpu", "--batch-tokens", 32)  # windows of 256 tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">{name} a protein\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def one_by_one(model: Path, pooling: str) -> list[np.ndarray]:
    loaded = load(model, device="cpu")
    return [loaded.embed([sequence], pooling)[0] for sequence in SEQUENCES.values()]  # type: ignore[call-overload]


@pytest.mark.parametrize("pooling", ["mean", "cls", "residue"])
@pytest.mark.parametrize("suffix", [".npz", ".arrow"])
def test_files_hold_the_embeddings_of_each_protein_alone(model, fasta, tmp_path, pooling, suffix):
    output = tmp_path / f"out{suffix}"
    assert run("embed", fasta, "--model", model, "--out", output, "--pooling", pooling, *MODEL)[0] == 0
    if suffix == ".arrow":
        table = pa.ipc.open_file(output).read_all()
        names, found = table["id"].to_pylist(), [np.array(row) for row in table["embedding"].to_pylist()]
        assert table["length"].to_pylist() == [len(sequence) for sequence in SEQUENCES.values()]
    else:
        arrays = np.load(output)
        names = list(arrays) if pooling == "residue" else arrays["ids"].tolist()
        found = [arrays[name] for name in names] if pooling == "residue" else list(arrays["embeddings"])
        assert found[0].dtype == np.float32
    assert names == list(SEQUENCES)
    for array, wanted in zip(found, one_by_one(model, pooling), strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", output.name]


@pytest.mark.parametrize("pooling", ["mean", "cls", "residue"])
def test_hdf5_holds_what_npz_holds_also_after_a_kill(model, fasta, tmp_path, monkeypatch, pooling):
    h5py = pytest.importorskip("h5py")
    command = ("embed", fasta, "--model", model, "--pooling", pooling, *MODEL, "--out")
    assert run(*command, tmp_path / "out.npz")[0] == 0
    pooled, done = Model.pooled, []

    def pooled_or_killed(self: Model, proteins: list[np.ndarray], pooling) -> list[np.ndarray]:
        if len(done) == 3 and not killed:
            killed.append(True)
            raise Killed
        done.append(len(proteins))
        return pooled(self, proteins, pooling)

    killed: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(Model, "pooled", pooled_or_killed)
        with pytest.raises(Killed):
            run(*command, tmp_path / "out.h5")
        with patched.context() as writing, pytest.raises(Killed):
            writing.setattr(writers, "_fill_h5", killed_half_way)
            run(*command, tmp_path / "out.h5")
        assert not (tmp_path / "out.h5").exists()
        assert run(*command, tmp_path / "out.h5")[0] == 0
    assert sum(done) == len(SEQUENCES), "each once"
    wanted = np.load(tmp_path / "out.npz")
    with h5py.File(tmp_path / "out.h5") as found:
        if pooling == "residue":
            assert set(found) == set(wanted) == set(SEQUENCES)
            arrays = {name: found[name][:] for name in found}
        else:
            assert found["ids"].asstr()[:].tolist() == wanted["ids"].tolist()
            arrays = {"embeddings": found["embeddings"][:]}
        for name, array in arrays.items():
            assert array.dtype == np.float32
            assert np.array_equal(array, wanted[name])
    assert not list(tmp_path.glob(".*"))


def killed_half_way(file: object, *others: object) -> None:
    raise Killed


class Killed(BaseException):
    """Stands in for a signal."""


def test_killed_anywhere_and_started_again(model, fasta, tmp_path, monkeypatch):
    command = ("embed", fasta, "--model", model, *MODEL, "--out")
    run(*command, tmp_path / "whole.npz")
    pooled, done = Model.pooled, []

    def pooled_or_killed(self: Model, proteins: list[np.ndarray], pooling) -> list[np.ndarray]:
        if len(done) in (1, 3) and not killed:
            killed.append(True)
            raise Killed
        done.append([letters.tobytes().decode() for letters in proteins])
        return pooled(self, proteins, pooling)

    monkeypatch.setattr(Model, "pooled", pooled_or_killed)
    for _ in range(2):
        killed = []
        with pytest.raises(Killed):
            run(*command, tmp_path / "out.npz")
        assert not (tmp_path / "out.npz").exists()
    assert run(*command, tmp_path / "out.npz")[0] == 0
    assert [sequence for window in done for sequence in window] == list(SEQUENCES.values())  # each once, in order
    assert len(done) > 4
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_parts_of_another_question_are_not_taken(model, fasta, tmp_path, monkeypatch):
    output = tmp_path / "out.npz"

    def interrupted(path: Path, finished: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(writers, "write_npz", interrupted)
        run("embed", fasta, "--model", model, "--out", output, *MODEL)
    run("embed", fasta, "--model", model, "--out", output, "--pooling", "cls", *MODEL)
    np.testing.assert_allclose(np.load(output)["embeddings"], one_by_one(model, "cls"), atol=1e-5)


def test_bad_input_keeps_what_is_finished(model, fasta, tmp_path):
    command = ("embed", fasta, "--model", model, "--out", tmp_path / "out.npz", *MODEL)
    good = fasta.read_text()
    for bad, message in (
        (">sp|P001\nACD\n", "record 40 (sp|P001): a name that came before"),
        (">x\n>y\nACD\n", "record 40 (x), line 81: a header without sequence"),
        (">x\nAC-D\n", "record 40 (x), line 82: letter '-' at position 3"),
        (f">x\n{'A' * 128}\n", "record 40 (x): 128 residues, more than the 127"),
    ):
        fasta.write_text(good + bad)
        outcome = run(*command)
        assert_refused(outcome, f"{fasta}: {message}")
        assert outcome[2].endswith("; kept for the next run: 40 finished proteins\n")
    fasta.write_text(good)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Model, "pooled", None)  # nothing is left to compute
        assert run(*command)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["embeddings"], one_by_one(model, "mean"), atol=1e-5)


def test_bad_requests_are_one_line(model, fasta, tmp_path, monkeypatch):
    out = ("--out", tmp_path / "out.npz")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for arguments, message in (
        ((fasta, "--model", tmp_path, *out), "no model.safetensors in it"),
        ((fasta, "--model", model, "--out", tmp_path / "out.csv"), "ends in none of .npz, .h5, .arrow"),
        ((fasta, "--model", model, "--out", tmp_path / "out.h5"), "needs h5py (pip install 'proteinlm[hdf5]')"),
        ((fasta, "--model", model, "--out", tmp_path / "nowhere/out.npz"), "no such directory"),
        ((fasta, "--model", model, *out, "--pooling", "max"), "--pooling max is not one of mean, cls, residue"),
        ((fasta, "--model", model, *out, "--device", "warp"), "--device warp"),
        ((tmp_path / "nowhere", "--model", model, *out), "No such file or directory"),
    ):
        assert_refused(run("embed", *arguments), message)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*"))


MAIN = "from proteinlm.cli import main; main()"


@pytest.mark.parametrize("how", ["file.gz", "standard input", "standard input, packed"])
def test_standard_input_and_gzip(model, fasta, tmp_path, how):
    plain, path = fasta.read_bytes(), tmp_path / "packed.fasta.gz"
    path.write_bytes(gzip.compress(plain))
    source, content = (str(path), b"") if how == "file.gz" else ("-", path.read_bytes() if "packed" in how else plain)
    command = [sys.executable, "-c", MAIN, "embed", source, "--model", str(model), "--out", str(tmp_path / "out.npz")]
    subprocess.run(command, input=content, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["embeddings"], one_by_one(model, "mean"), atol=1e-5)


PEAK = MAIN.replace("main()", "\ntry: main()\nfinally: import resource; print(resource.getrusage(0).ru_maxrss)")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(model, tmp_path):
    peaks = []
    for count in (1_000, 10_000):
        fasta = tmp_path / f"{count}.fasta"
        fasta.write_text("".join(f">p{number}\n{protein(60 + number % 67, number)}\n" for number in range(count)))
        command = ["embed", str(fasta), "--model", str(model), "--out", str(tmp_path / f"{count}.npz")]
        run = subprocess.run(
            [sys.executable, "-c", PEAK, *command, "--pooling", "residue", "--batch-tokens", "1024"],
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 16_384  # KiB: the file's embeddings are 120 MB
