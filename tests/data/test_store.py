"""A store finds its sources, is in files that others open, and is there whole or not at all."""

import io
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from proteinlm.data import progress, store
from proteinlm.data.store import building, layout, manifest
from proteinlm.data.store import convert as conversion
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError
from tests.data.samples import SHARED, built, needs_shared, protein, sequences, tape_record, write_fasta, write_tape


def test_others_open_the_files_as_they_are(root):
    texts = sequences(100)
    write_fasta(root, "train", texts)
    write_tape(root, "proteinnet", "test", [tape_record("proteinnet", index) for index in range(3)])
    content = built(root)
    path = content.path("pretrain", "train")
    assert ds.dataset(path, format="ipc").to_table(columns=["sequence"])["sequence"].to_pylist() == texts
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_feather(path)
    assert list(frame.sequence) == texts
    assert dict(frame.groupby("family").size()) == {"F0": 34, "F1": 33, "F2": 33}
    assert np.stack(pandas.read_feather(content.path("proteinnet", "test")).tertiary[2]).shape[1] == 3


def test_opening_reads_no_protein(root):
    write_fasta(root, "train", [protein(1000)] * 20_000)  # 20 MB
    content = built(root)
    before = pa.total_allocated_bytes()
    opened = store.open(content.directory).sequences("pretrain", "train")
    assert pa.total_allocated_bytes() - before < 100_000
    assert len(opened) == 20_000


def test_a_worker_that_is_not_forked_is_sent_the_name_of_the_file(root):
    texts = sequences(100)
    write_fasta(root, "train", texts)
    opened = built(root).sequences("pretrain", "train")
    sent = pickle.dumps(opened)
    assert len(sent) < 500
    received = pickle.loads(sent)
    assert [received.letters(record).tobytes().decode() for record in range(100)] == texts
    in_memory = pickle.loads(pickle.dumps(Sequences(pa.chunked_array([pa.array(texts)]))))
    assert [in_memory.letters(record).tobytes().decode() for record in range(100)] == texts


def test_a_store_is_reused_until_a_source_changes(root, monkeypatch):
    path = write_fasta(root, "train", sequences(5))
    write_fasta(root, "valid", sequences(3))
    converted = []
    convert = conversion.convert
    monkeypatch.setattr(
        conversion, "convert", lambda source, *rest: converted.append(source.split) or convert(source, *rest)
    )
    first = built(root)
    assert converted == ["train", "valid"]
    assert built(root).manifest == first.manifest
    assert converted == ["train", "valid"]

    fingerprint = first.fingerprint("pretrain")
    os.utime(path, ns=(1, 1))
    assert built(root).fingerprint("pretrain") == fingerprint
    assert converted == ["train", "valid", "train"]

    write_fasta(root, "holdout", sequences(4))
    assert built(root).fingerprint("pretrain") != fingerprint
    assert converted == ["train", "valid", "train", "holdout"]

    (root / "pretrain/pretrain_valid.fasta").unlink()
    assert list(built(root).splits("pretrain")) == ["holdout", "train"]
    assert converted == ["train", "valid", "train", "holdout"]


def test_a_store_may_stand_for_its_sources(root, tmp_path):
    write_fasta(root, "train", sequences(5))
    content = built(root)
    assert store.ensure(content.directory, tmp_path / "unused").directory == content.directory
    assert not (tmp_path / "unused").exists()


def test_two_roots_of_one_name_have_two_stores(tmp_path):
    for name in ("a", "b"):
        write_fasta(tmp_path / name / "data", "train", sequences(ord(name)))
    stores = [store.ensure(tmp_path / name / "data", tmp_path / "cache") for name in ("a", "b")]
    assert [content.split("pretrain", "train").records for content in stores] == [97, 98]


def build_slowly(root: Path, conversions) -> None:
    convert = conversion.convert

    def slow(*arguments):
        with conversions.get_lock():
            conversions.value += 1
        time.sleep(0.3)
        return convert(*arguments)

    conversion.convert = slow
    assert built(root).split("pretrain", "train").records == 5


def test_of_many_processes_one_builds(root):
    write_fasta(root, "train", sequences(5))
    fork = multiprocessing.get_context("fork")
    conversions = fork.Value("i", 0)
    processes = [fork.Process(target=build_slowly, args=(root, conversions)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert conversions.value == 1
    assert sorted(path.name for path in (root.parent / "cache").iterdir()) == [built(root).directory.name]


def test_an_interrupted_build_leaves_what_was_there(root, monkeypatch):
    write_fasta(root, "train", sequences(5))
    cache, convert = root.parent / "cache", conversion.convert

    def interrupted(*arguments):
        convert(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built(root)
        assert not list(cache.iterdir())
    first = built(root)
    write_fasta(root, "train", sequences(6))
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built(root)
    assert [path.name for path in cache.iterdir()] == [first.directory.name]
    assert store.open(first.directory).split("pretrain", "train").records == 5
    assert built(root).split("pretrain", "train").records == 6


def test_what_a_killed_build_left_is_swept_up(root):
    write_fasta(root, "train", sequences(5))
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=build_slowly, args=(root, fork.Value("i", 0)))
    process.start()
    time.sleep(0.15)
    process.kill()
    process.join()
    left = [path.name for path in (root.parent / "cache").iterdir()]
    assert any(name.endswith(".building") for name in left)
    assert [path.name for path in (root.parent / "cache").iterdir() if manifest.is_store(path)] == []
    content = built(root)
    assert [path.name for path in (root.parent / "cache").iterdir()] == [content.directory.name]


def test_a_full_disk_is_one_line_and_leaves_nothing(root):
    """A limit on the size of files stands for the disk's end."""
    write_fasta(root, "train", [protein(1000)] * 300)
    code = (
        "import sys; from pathlib import Path; from proteinlm.data import store\n"
        "from proteinlm.errors import InputError\n"
        "try: store.ensure(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except InputError as error: print(error); sys.exit(2)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(root), str(root.parent / "cache")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stdout
    assert result.stdout.count("\n") == 1
    assert not list((root.parent / "cache").iterdir())


def test_nothing_but_a_store_is_replaced(root, tmp_path):
    write_fasta(root, "train", sequences(5))
    target = tmp_path / "mine"
    target.mkdir()
    building.build(root, target)
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "manifest.json").write_text("{}")
    for place in (tmp_path / "yours", root):
        with pytest.raises(InputError, match="not a store"):
            building.build(root, place)
    assert (tmp_path / "yours" / "manifest.json").read_text() == "{}"


def test_a_check_finds_every_changed_byte(root):
    source = write_fasta(root, "train", sequences(50))
    content = built(root)
    assert list(building.check(content.directory)) == [("pretrain", "train", 50, True)]
    path = content.path("pretrain", "train")
    good = path.read_bytes()
    for position in np.linspace(0, len(good) - 1, 12).astype(int):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(InputError, match=r"train\.arrow: .*do not match the manifest"):
            list(building.check(content.directory))
    path.write_bytes(good[:-1])
    with pytest.raises(InputError, match=r"train\.arrow: .* bytes, not the manifest's"):
        store.open(content.directory)
    path.unlink()
    with pytest.raises(InputError, match=r"train\.arrow: missing"):
        store.open(content.directory)
    path.write_bytes(good)
    source.write_text(source.read_text().replace("A", "C"))
    with pytest.raises(InputError, match=r"train\.fasta: .*do not match the manifest"):
        list(building.check(content.directory))
    source.unlink()
    assert list(building.check(content.directory)) == [("pretrain", "train", 50, False)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version": 1', '"schema_version": 0', "version 0"),
        ('"records"', '"recards"', "damaged"),
        ("{", "[", "damaged"),
        ("proteinlm store", "something", "something else"),
    ],
)
def test_a_bad_manifest_is_one_line(root, old, new, message):
    write_fasta(root, "train", sequences(5))
    path = built(root).directory / manifest.FILE
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        store.open(path.parent)
    with pytest.raises(InputError, match="not a store"):
        store.open(root)


def test_a_store_names_what_it_has(root):
    write_fasta(root, "train", sequences(5))
    content = built(root)
    with pytest.raises(InputError, match="no valid split of pretrain, only train"):
        content.sequences("pretrain", "valid")
    with pytest.raises(InputError, match="no stability in it, only pretrain"):
        content.fingerprint("stability")


def test_every_layout_is_found(tmp_path):
    layouts = {
        "pretrain/pretrain_train.fasta.xz": ("pretrain", "train", "fasta"),
        "pretrain_valid.fa": ("pretrain", "valid", "fasta"),
        "tape/pfam/pfam_holdout.lmdb": ("pretrain", "holdout", "lmdb"),
        "secondary_structure/secondary_structure_cb513.lmdb": ("secondary_structure", "cb513", "lmdb"),
        "tape/remote_homology/remote_homology_test_fold_holdout.json.gz": (
            "remote_homology",
            "test_fold_holdout",
            "json",
        ),
        "proteinnet/proteinnet_train_unfiltered.txt.gz": ("proteinnet", "train_unfiltered", "proteinnet"),
        "stability/stability_test.json": ("stability", "test", "json"),
    }
    for name in (*layouts, "stability/stability_test.fasta", "stability/._stability_train.json", "pfam/pfam.tar.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {(source.task, source.split, source.kind): source.path for source in layout.find(tmp_path)}
    assert found == {what: tmp_path / name for name, what in layouts.items()}


def test_two_files_for_one_split_are_refused(root):
    write_fasta(root, "train", sequences(5))
    for other in ("pretrain/pretrain_train.fasta.gz", "pfam/pfam_train.lmdb", "pretrain_train.json"):
        (root / other).parent.mkdir(exist_ok=True)
        (root / other).touch()
        with pytest.raises(InputError, match="two files for the train split of pretrain") as error:
            built(root)
        assert "pretrain_train.fasta" in str(error.value)
        assert other in str(error.value)
        (root / other).unlink()


def test_a_directory_with_nothing_in_it_is_refused(root):
    (root / "notes.txt").touch()
    with pytest.raises(InputError, match="no data in it: neither"):
        built(root)
    with pytest.raises(InputError, match="no such directory"):
        built(root / "missing")
    with pytest.raises(InputError, match="not a directory"):
        built(root / "notes.txt")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_is_shown_a_bar_after_a_while(monkeypatch, is_terminal):
    screen = io.StringIO()
    screen.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "_PATIENCE", 0.1)
    with progress.Bar("reading", 100) as bar:
        bar.advance(10)
        assert screen.getvalue() == ""
        time.sleep(0.2)
        bar.advance(10)
        time.sleep(0.2)
    assert ("reading" in screen.getvalue()) is is_terminal


@needs_shared
def test_the_real_small_splits_are_built_and_checked(tmp_path):
    counts = {
        ("pretrain", "valid"): 10637,
        ("fluorescence", "valid"): 5362,
        ("stability", "valid"): 2512,
        ("secondary_structure", "cb513"): 513,
        ("remote_homology", "test_fold_holdout"): 718,
        ("proteinnet", "test"): 416,
    }
    root = tmp_path / "data"
    root.mkdir()
    for source in layout.find(SHARED):
        if (source.task, source.split) in counts:
            (root / source.path.name).symlink_to(source.path)
    content = built(root)
    checked = {(task, split): records for task, split, records, _ in building.check(content.directory)}
    assert checked == counts
    masks = [record.get("cb513_mask") for record in content.records("secondary_structure", "cb513")]
    assert sum(mask is None for mask in masks) == 2
    assert sum(mask.sum() for mask in masks if mask is not None) == 83991
