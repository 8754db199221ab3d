"""Records come out of a store as their sources have them, and one that is wrong is a line with its number."""

import json
import lzma
import pickle

import numpy as np
import pytest

from proteinlm.data.store import convert
from proteinlm.errors import InputError
from tests.data.samples import assert_equal_records, built, sequences, tape_record, write_fasta, write_tape

LABELLED = ("secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability")


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 53])
def test_proteins_of_fasta_come_back_in_equal_batches(root, monkeypatch, count):
    monkeypatch.setattr(convert, "PRETRAIN_ROWS", 8)
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
    monkeypatch.setattr(convert, "LABELLED_ROWS", rows)
    records = [tape_record(task, index) for index in range(7)]
    write_tape(root, task, "train", records)
    for index, (ours, theirs) in enumerate(zip(built(root).records(task, "train"), records, strict=True)):
        theirs = {name: value.decode() if isinstance(value, bytes) else value for name, value in theirs.items()}
        assert ours.pop("id") == theirs.pop("id", str(index))
        assert_equal_records(ours, theirs)


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
    monkeypatch.setattr(convert, "LABELLED_ROWS", 2)
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
