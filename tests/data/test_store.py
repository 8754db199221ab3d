"""A store holds exactly what its sources hold, in files that others open, and is there whole or not at all."""

import io
import json
import lzma
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

from proteinlm.data import building, conversion, layout, manifest, progress, store
from proteinlm.data.store import Store
from proteinlm.errors import InputError
from tests.data.samples import SHARED, needs_shared, protein, tape_record, write_tape

LABELLED = ("secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability")


def write_fasta(root: Path, split: str, sequences: list[str]) -> Path:
    path = root / "pretrain" / f"pretrain_{split}.fasta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">p{index} family=F{index % 3}\n{text}\n" for index, text in enumerate(sequences)))
    return path


def built(root: Path) -> Store:
    return store.ensure(root, root.parent / "cache")


def sequences(count: int) -> list[str]:
    return [protein(1 + index % 50, index) for index in range(count)]


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 53])
def test_proteins_of_fasta_come_back_in_equal_batches(root, monkeypatch, count):
    monkeypatch.setattr(conversion, "PRETRAIN_ROWS", 8)
    monkeypatch.setattr("proteinlm.data.formats.fasta.BLOCK", 100)
    texts = sequences(count)
    write_fasta(root, "train", texts)
    content = built(root)
    table, column = content.table("pretrain", "train"), content.sequences("pretrain", "train")
    assert [len(chunk) for chunk in table["id"].chunks] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    assert table["sequence"].to_pylist() == texts
    assert table["id"].to_pylist() == [f"p{index}" for index in range(count)]
    assert table["family"].to_pylist() == [f"F{index % 3}" for index in range(count)]
    assert [column.letters(index).tobytes().decode() for index in range(count)] == texts
    split = content.split("pretrain", "train")
    assert (split.records, split.residues) == (count, sum(map(len, texts)))


def test_header_fields_become_columns_and_nothing_is_lost(root):
    path = write_fasta(root, "train", [])
    lines = [
        ">a family=F1 near_test=0",
        ">b\tfamily=  near_test=1 and more",
        "> family=F3",
        ">d near_test=1 family=F4",
        ">",
    ]
    path.write_bytes("\r\nACD\r\n".join([*lines, ""]).encode())
    assert built(root).table("pretrain", "train").drop_columns("sequence").to_pydict() == {
        "id": ["a", "b", "2", "d", "4"],
        "family": ["F1", "", "F3", "", ""],
        "near_test": ["0", "1", "", "1", ""],
        "description": [None, "and more", None, "family=F4", None],
    }


@pytest.mark.parametrize("header", ["sp|P12345|A_B Some protein OS=Homo sapiens", "x a=1 a=2", "x id=3", "x é=1", "x"])
def test_other_headers_are_kept_as_descriptions(root, header):
    write_fasta(root, "train", []).write_text(f">{header}\nACD\n")
    identifier, _, rest = header.partition(" ")
    row = built(root).table("pretrain", "train").to_pylist()[0]
    assert row == {"id": identifier, "sequence": "ACD", "description": rest or None}


def test_headers_that_are_not_unicode_are_latin_1(root):
    write_fasta(root, "train", []).write_bytes(b">\xe9 caf\xe9\nACD\n")
    rows = built(root).table("pretrain", "train").to_pylist()
    assert rows == [{"id": "é", "sequence": "ACD", "description": "café"}]


@pytest.mark.parametrize("task", LABELLED)
@pytest.mark.parametrize("rows", [3, 1024])
def test_records_of_tape_come_back_field_by_field(root, monkeypatch, task, rows):
    monkeypatch.setattr(conversion, "LABELLED_ROWS", rows)
    records = [tape_record(task, index) for index in range(7)]
    write_tape(root, task, "train", records)
    for index, (ours, theirs) in enumerate(zip(built(root).records(task, "train"), records, strict=True)):
        theirs = {name: value.decode() if isinstance(value, bytes) else value for name, value in theirs.items()}
        assert ours.pop("id") == theirs.pop("id", str(index))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert type(ours[name]) is type(value)
            if isinstance(value, np.ndarray):
                assert ours[name].dtype == value.dtype
            np.testing.assert_array_equal(ours[name], value)


def test_pfam_is_the_pretraining_task(root):
    records = [tape_record("pfam", index) for index in range(12)]
    write_tape(root / "tape", "pfam", "holdout", records)
    content = built(root)
    assert content.table("pretrain", "holdout").to_pydict() == {
        "id": [str(index) for index in range(12)],
        "sequence": [record["primary"] for record in records],
        "protein_length": [record["protein_length"] for record in records],
        "clan": [record["clan"] for record in records],
        "family": [record["family"] for record in records],
    }
    assert len(content.sequences("pretrain", "holdout")) == 12


def test_the_same_records_as_lmdb_and_as_json_give_the_same_files(tmp_path):
    for task in LABELLED:
        records = [tape_record(task, index) for index in range(5)]
        write_tape(tmp_path / "lmdb", task, "train", records)
        path = tmp_path / "json" / "tape" / task / f"{task}_train.json.xz"
        path.parent.mkdir(parents=True)
        with lzma.open(path, "wt") as file:
            json.dump(
                records, file, default=lambda value: value.decode() if isinstance(value, bytes) else value.tolist()
            )
    by_lmdb, by_json = built(tmp_path / "lmdb"), built(tmp_path / "json")
    for task in LABELLED:
        assert by_lmdb.fingerprint(task) == by_json.fingerprint(task)
    assert len({by_lmdb.fingerprint(task) for task in LABELLED}) == 5


def test_fields_that_tape_does_not_have_are_kept(root):
    extra = {
        "note": "x",
        "score": 0.5,
        "fold": 2**40,
        "flag": True,
        "track": [1.5, 2],
        "pairs": [[1, 2], [3, 4], [5, 6]],
    }
    records = [{"primary": "acd", "log_fluorescence": 1}, {"primary": "ACDE", "log_fluorescence": [2.5], **extra}]
    (root / "fluorescence_test.json").write_text(json.dumps(records))
    first, second = built(root).records("fluorescence", "test")
    assert (first["id"], first["primary"], first["log_fluorescence"].tolist()) == ("0", "ACD", [1.0])
    assert not extra.keys() & first.keys()
    assert {name: np.asarray(second[name]).tolist() for name in extra} == extra


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
    start = time.perf_counter()
    opened = store.open(content.directory).sequences("pretrain", "train")
    assert time.perf_counter() - start < 0.1
    assert pa.total_allocated_bytes() - before < 100_000
    assert len(opened) == 20_000


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


GOOD = {
    "secondary_structure": {"primary": "ACD", "ss3": [0, 1, 2], "valid_mask": [1, 1, 0]},
    "proteinnet": {"primary": "ACD", "tertiary": [[0, 0, 0]] * 3, "valid_mask": [True, False, True]},
    "remote_homology": {"primary": "ACD", "fold_label": 3},
    "fluorescence": {"primary": "ACD", "log_fluorescence": [1.5], "num_mutations": 2},
}
NAN = float("nan")
BAD = [
    ("fluorescence", {"primary": None}, "no primary"),
    ("fluorescence", {"primary": ""}, "no primary"),
    ("fluorescence", {"primary": [3, 4]}, "primary is numbers, not letters"),
    ("fluorescence", {"primary": "ACJ"}, "letter 'J' at position 3 is not one of"),
    ("fluorescence", {"primary": "AC\u0100"}, "letter 'Ā' at position 3 is not one of"),
    ("fluorescence", {"primary": "ACß"}, "letter 'ß' at position 3 is not one of"),  # its capital is SS
    ("fluorescence", {"log_fluorescence": [NAN]}, "log_fluorescence is NaN or infinite"),
    ("fluorescence", {"log_fluorescence": NAN}, "log_fluorescence is NaN or infinite"),
    ("fluorescence", {"log_fluorescence": None}, "no log_fluorescence"),
    ("fluorescence", {"log_fluorescence": [1.0, 2.0]}, "log_fluorescence has shape (2,), not (1,)"),
    ("fluorescence", {"log_fluorescence": "high"}, "log_fluorescence is not numbers: 'high'"),
    ("fluorescence", {"num_mutations": 1.5}, "num_mutations holds something that is no int32"),
    ("fluorescence", {"num_mutations": 2**31}, "num_mutations holds something that is no int32"),
    ("fluorescence", {"surprise": 1}, "a field surprise, which the first records do not have"),
    ("secondary_structure", {"ss3": [0, 1]}, "ss3 has shape (2,), not (3,) for 3 residues"),
    ("secondary_structure", {"ss3": [0, 1, 3]}, "ss3 is not in (-1, 2) at position 3: 3"),
    ("secondary_structure", {"ss3": [0, 1, [2]]}, "ss3 has rows of unequal length"),
    ("secondary_structure", {"valid_mask": [1, 1]}, "valid_mask has shape (2,), not (3,) for 3 residues"),
    ("secondary_structure", {"valid_mask": [1, NAN, 1]}, "valid_mask is NaN or infinite at position 2"),
    ("proteinnet", {"tertiary": [[0, 0, 0]] * 2}, "tertiary has shape (2, 3), not (3, 3) for 3 residues"),
    ("proteinnet", {"tertiary": [[0, 0, 0], [0, 0, 0], [0, NAN, 0]]}, "tertiary is NaN or infinite at position 3"),
    ("proteinnet", {"valid_mask": [0, 1, 2]}, "valid_mask holds something that is no bool"),
    ("remote_homology", {"fold_label": 1195}, "fold_label is not in (0, 1194): 1195"),
    ("remote_homology", {"id": [1]}, "id is not text"),
]


@pytest.mark.parametrize(("task", "change", "message"), BAD)
def test_a_bad_record_is_one_line_with_its_number(root, monkeypatch, task, change, message):
    monkeypatch.setattr(conversion, "LABELLED_ROWS", 2)
    changed = {name: value for name, value in (GOOD[task] | change).items() if value is not None}
    path = root / f"{task}_train.json"
    path.write_text(json.dumps([*[GOOD[task]] * 3, changed]))
    with pytest.raises(InputError) as error:
        built(root)
    assert str(error.value).startswith(f"{path}: record 3 (")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((root.parent / "cache").iterdir())


def test_tertiary_may_be_unknown_where_the_mask_says_so(root):
    record = GOOD["proteinnet"] | {"tertiary": [[0, 0, 0], [NAN] * 3, [0, 0, 0]]}
    (root / "proteinnet_test.json").write_text(json.dumps([record]))
    assert np.isnan(next(built(root).records("proteinnet", "test"))["tertiary"][1]).all()


def test_a_missing_identifier_is_the_number(root):
    (root / "stability_test.json").write_text(
        json.dumps(
            [{"primary": "A", "stability_score": 1, **extra} for extra in ({}, {"id": None}, {"id": 7}, {"id": "x"})]
        )
    )
    assert [record["id"] for record in built(root).records("stability", "test")] == ["0", "1", "7", "x"]


def test_no_records_are_refused(root):
    (root / "stability_test.json").write_text("[]")
    with pytest.raises(InputError, match="no records"):
        built(root)


def test_a_pickle_that_names_anything_is_refused_with_the_record(root):
    write_tape(root, "stability", "train", [tape_record("stability", 0), {"primary": print}], pickle.dumps)
    with pytest.raises(InputError, match=r"stability_train\.lmdb: record 1: refused: it names 'builtins\.print'"):
        built(root)


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
