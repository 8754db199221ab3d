"""``proteinlm embed`` writes what `Model.embed` gives, in constant memory, and never computes a finished window again."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    pooled, done = Model.pool, []

    def pooled_or_killed(self: Model, proteins: list[np.ndarray], pooling) -> list[np.ndarray]:
        if len(done) == 3 and not killed:
            killed.append(True)
            raise Killed
        done.append(len(proteins))
        return pooled(self, proteins, pooling)

    killed: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(Model, "pool", pooled_or_killed)
        with pytest.raises(Killed):
            run(*command, tmp_path / "out.h5")
        with patched.context() as writing, pytest.raises(Killed):
            writing.setattr(writers, "_write_datasets", killed_half_way)
            run(*command, tmp_path / "out.h5")
        assert not (tmp_path / "out.h5").exists()
        assert run(*command, tmp_path / "out.h5")[0] == 0
    assert sum(done) == len(SEQUENCES), "each once"
    wanted = np.load(tmp_path / "out.npz")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == list(SEQUENCES), "one dataset for each protein, in their order"
        arrays = dict(wanted) if pooling == "residue" else dict(zip(wanted["ids"], wanted["embeddings"], strict=True))
        for name, dataset in file.items():
            assert dataset.dtype == np.float32
            assert np.array_equal(dataset[:], arrays[name])
            assert dataset.attrs["original_id"] == name
        assert dict(file.attrs) == {"model_name": model.name, "pooling": pooling}
    assert not list(tmp_path.glob(".*"))


def load_as_protspace(file: Path) -> tuple[str, list[str], np.ndarray]:
    """Name of the model, names of the proteins and their vectors, by protspace's loader or as it reads a file."""
    h5py = pytest.importorskip("h5py")
    try:
        from protspace.data.loaders.h5 import load_h5  # type: ignore[import-not-found]
    except ImportError:
        with h5py.File(file) as opened:  # protspace 4.8: every dataset at the root is a vector, or else an error
            assert not any(isinstance(item, h5py.Group) for item in opened.values())
            return opened.attrs["model_name"], list(opened), np.stack([np.array(item) for item in opened.values()])
    embeddings = load_h5([file])
    return embeddings.name, embeddings.headers, embeddings.data


def test_protspace_opens_hdf5_whose_names_look_like_paths(model, tmp_path):
    names = ["Q8XYZ1_9BACT/25-180", "a/b/c", ".", "..", "a", "b$x$", "sp|P12345|X_Y", "ü"]
    fasta, out = tmp_path / "in.fasta", tmp_path / "out.h5"
    fasta.write_text("".join(f">{name}\n{protein(9, place)}\n" for place, name in enumerate(names)))
    assert run("embed", fasta, "--model", model, "--out", out, *MODEL)[0] == 0
    title, found, vectors = load_as_protspace(out)
    wanted = load(model, device="cpu").embed([protein(9, place) for place in range(len(names))])
    assert title == model.name
    assert found == ["Q8XYZ1_9BACT_25-180", "a_b_c", "_", *names[3:]]
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "first", "second"), [(".h5", "a/b", "a_b"), (".npz", "a", "a.npy"), (".npz", "a.npy.npy", "a.npy")]
)
def test_two_names_for_one_array_are_refused_before_anything_is_computed(
    model, tmp_path, monkeypatch, suffix, first, second
):
    fasta, out = tmp_path / "in.fasta", tmp_path / f"out{suffix}"
    fasta.write_text(f">{first}\nACD\n>x\nAC\n>{second}\nACDE\n")
    command = ("embed", fasta, "--model", model, "--pooling", "residue", *MODEL, "--out")
    with monkeypatch.context() as patched:
        patched.setattr(Model, "pool", None)  # nothing may be computed
        outcome = run(*command, out)
    assert_refused(outcome, f"{fasta}: record 2 ({second}): a name that came before, as {second.removesuffix('.npy')}")
    assert not out.exists()
    assert run(*command, tmp_path / "out.arrow")[0] == 0, "names are a column there"


@pytest.mark.parametrize("how", ["path", "symlink", "hard link", "symlinked directory"])
def test_output_over_input_is_refused_before_the_model_is_read(fasta, tmp_path, how):
    source = fasta.rename(tmp_path / "proteins.npz")
    out, content = tmp_path / "other.npz", source.read_bytes()
    if how == "symlink":
        out.symlink_to(source)
    elif how == "hard link":
        out.hardlink_to(source)
    elif how == "symlinked directory":
        (tmp_path / "there").symlink_to(tmp_path)
        out = tmp_path / "there/proteins.npz"
    else:
        out = tmp_path / "nowhere/../proteins.npz"
        (tmp_path / "nowhere").mkdir()
    outcome = run("embed", source, "--model", tmp_path / "no model", "--out", out)
    assert_refused(outcome, f"{out}: would overwrite the input {source}")
    assert source.read_bytes() == content


def test_every_command_refuses_output_over_input(tmp_path):
    none = tmp_path / "no model"
    for name in ("a.fasta", "a.npz", "a.csv", "b.csv"):
        (tmp_path / name).write_text(">a\nACD\n")
    fasta, npz, csv, other = (tmp_path / name for name in ("a.fasta", "a.npz", "a.csv", "b.csv"))
    data = tmp_path / "data/pretrain/pretrain_train.fasta"
    data.parent.mkdir(parents=True)
    data.write_text(">a\nACD\n")
    for command in (
        ("predict", "stability", fasta, "--model", none, "--out", fasta),
        ("pppl", csv, "--model", none, "--out", csv),
        ("contacts", npz, "--model", none, "--out", npz),
        ("score", csv, other, "--model", none, "--out", csv),
        ("score", csv, other, "--model", none, "--out", other),
        ("data", "leakage", tmp_path / "data", "--out", data),
    ):
        assert_refused(run(*command), "would overwrite the input")
    assert {path.read_text() for path in (fasta, npz, csv, other, data)} == {">a\nACD\n"}


def killed_half_way(file: object, *others: object) -> None:
    raise Killed


class Killed(BaseException):
    """Stands in for a signal."""


def test_killed_anywhere_and_started_again(model, fasta, tmp_path, monkeypatch):
    command = ("embed", fasta, "--model", model, *MODEL, "--out")
    run(*command, tmp_path / "whole.npz")
    pooled, done = Model.pool, []

    def pooled_or_killed(self: Model, proteins: list[np.ndarray], pooling) -> list[np.ndarray]:
        if len(done) in (1, 3) and not killed:
            killed.append(True)
            raise Killed
        done.append([letters.tobytes().decode() for letters in proteins])
        return pooled(self, proteins, pooling)

    monkeypatch.setattr(Model, "pool", pooled_or_killed)
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
        patched.setattr(Model, "pool", None)  # nothing is left to compute
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


@contextmanager
def standard_input(content: bytes) -> Iterator[None]:
    """A pipe with `content` as the standard input of this process."""
    original, (reader, sink) = os.dup(0), os.pipe()
    os.dup2(reader, 0)
    os.close(reader)

    def feed() -> None:
        with os.fdopen(sink, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
        thread.join()
    finally:
        os.dup2(original, 0)
        os.close(original)


@pytest.mark.parametrize("how", ["file.gz", "standard input", "standard input, packed"])
def test_standard_input_and_gzip(model, fasta, tmp_path, how):
    plain, path = fasta.read_bytes(), tmp_path / "packed.fasta.gz"
    path.write_bytes(gzip.compress(plain))
    options = ("--model", model, "--out", tmp_path / "out.npz", *MODEL)
    if how == "file.gz":
        assert run("embed", path, *options)[0] == 0
    else:
        with standard_input(path.read_bytes() if "packed" in how else plain):
            assert run("embed", "-", *options)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["embeddings"], one_by_one(model, "mean"), atol=1e-5)


def test_output_over_standard_input_is_refused(fasta):
    original, content = os.dup(0), fasta.read_bytes()
    with fasta.rename(fasta.with_suffix(".csv")).open("rb") as file:
        os.dup2(file.fileno(), 0)
        try:
            outcome = run("pppl", "-", "--model", "no model", "--out", fasta.with_suffix(".csv"))
        finally:
            os.dup2(original, 0)
            os.close(original)
    assert_refused(outcome, "would overwrite the input /dev/stdin")
    assert fasta.with_suffix(".csv").read_bytes() == content


MAIN = "from proteinlm.cli import main; main()"
PEAK = MAIN.replace(
    "main()", "\ntry: main()\nfinally: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
)
"""KiB; what getrusage says is at least the memory of the process that started this one."""


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
