"""A user's CSV becomes the splits and the classes that it says, and what cannot be used is one line with file and line."""

import gzip
from pathlib import Path

import pytest

from proteinlm.config import CsvDataConfig, CustomTaskConfig, SyntheticDataConfig
from proteinlm.data.csv_labels import open_labels
from proteinlm.data.sources import Labelled
from proteinlm.errors import InputError
from tests.data.samples import protein

SPLIT = ("train", "train", "valid", "valid", "test")


def written(directory: Path, *lines: str, name: str = "mine.csv") -> Path:
    path = directory / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def labelled(directory: Path, labels: list[str], sequences: list[str] | None = None) -> Path:
    sequences = sequences or [protein(10 + number, number) for number in range(len(labels))]
    rows = zip(sequences, labels, SPLIT, strict=True)
    return written(directory, "sequence,label,split", *(",".join(row) for row in rows))


def read(
    path: Path, kind: str = "auto", classes: list[str] | None = None, **knobs: object
) -> tuple[Labelled, CustomTaskConfig]:
    return open_labels(CsvDataConfig(csv=str(path), **knobs), CustomTaskConfig(kind=kind, classes=classes or []))  # type: ignore[arg-type]


def test_a_column_says_the_split_and_the_order_stays(tmp_path: Path):
    path = written(
        tmp_path,
        "id,label,sequence,extra,split",
        'a,"in, side",acdef,1,train',
        "b,out,CDEFG,2,valid",
        "",
        "c,out,DEFGH,3,train",
    )
    source, task = read(path)
    assert (task.kind, task.classes) == ("class", ["in, side", "out"])
    assert source.sizes == {"train": 2, "valid": 1}
    assert source.records("train") == [
        {"id": "a, line 2", "primary": "ACDEF", "label": "in, side"},
        {"id": "c, line 5", "primary": "DEFGH", "label": "out"},
    ]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1", "2.5", "-3e2", "4", "0.1"], "number"),
        (["a", "b", "a", "2", "b"], "class"),
        (["A" * 10, "AB" * 5 + "A", "B" * 12, "A" * 13, "?" * 14], "residues"),
        (["0" * 10, "01" * 5 + "0", "1" * 12, "0" * 13, "0" * 14], "residues"),
        (["0.12345678", "0.123456789", "0.1234567891", "0.12345678912", "0.123456789123"], "number"),
        (["1-2", "a", "1-2", "2", "b"], "class"),
    ],
)
def test_the_kind_is_seen_from_the_labels(tmp_path: Path, labels: list[str], kind: str):
    source, task = read(labelled(tmp_path, labels))
    assert task.kind == kind
    assert task.classes == {"number": [], "class": sorted(set(labels))}.get(kind, sorted(set("".join(labels)) - {"?"}))
    (first, *_) = source.records("train")
    assert first["label"] == (float(labels[0]) if kind == "number" else labels[0])


def test_a_knob_says_otherwise(tmp_path: Path):
    path = labelled(tmp_path, ["0", "1", "1", "0", "1"])
    assert read(path)[1].kind == "number"
    assert read(path, kind="class")[1].classes == ["0", "1"]
    assert read(path, kind="class", classes=["1", "0", "2"])[1].classes == ["1", "0", "2"]


def test_relatives_are_drawn_into_one_split(tmp_path: Path):
    parents = [protein(60, number) for number in range(40)]
    rows = [f"{sequence[skip:]},{number}" for number, sequence in enumerate(parents) for skip in (0, 3)]
    path = written(tmp_path, "sequence,label", *rows)
    source, _ = read(path)
    assert source.sizes == {"train": 64, "valid": 8, "test": 8}
    family = [{record["label"] for record in source.records(split)} for split in source.sizes]
    assert sum(map(len, family)) == 40, "no parent is in two splits"
    assert any("drew 40 clusters of sequences, data.identity=0.5 and data.seed=0" in line for line in source.remarks)
    assert read(path)[0].fingerprint == source.fingerprint != read(path, seed=1)[0].fingerprint


def test_other_names_tabs_and_compression(tmp_path: Path):
    path = tmp_path / "mine.tsv.gz"
    rows = ["\ufeffseq\tactivity\tfold", "ACDEF\t1\ttrain", "ACDEH\t2\ttrain", "ACDEG\t2\tvalid", "ACDEI\t1\tvalid"]
    path.write_bytes(gzip.compress("\r\n".join(rows).encode()))
    source, task = read(path, sequence="seq", label="activity", split="fold")
    assert (task.kind, source.sizes) == ("number", {"train": 2, "valid": 2})


def test_what_the_user_should_know_is_said(tmp_path: Path):
    shared = protein(10, 0)
    path = labelled(tmp_path, ["a", "b", "b", "c", "a"], [shared, "ACDE", "ACDF", shared.lower(), "ACDG"])
    remarks = read(path)[0].remarks
    assert (
        remarks[0] == "labels: one of 3 classes of each protein (a, b, c); "
        "task.kind=class|number|residues|residue_numbers says otherwise"
    )
    assert f"warning: {path}: 1 proteins are in several splits, as lines 2 (train) and 5 (valid)" in remarks
    assert "warning: no training protein has the label c" in remarks


GOOD = ("ACDEF,x,train", "ACDEG,y,valid", "ACDEH,x,train")
HEADER = "sequence,label,split"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"mine.csv: nothing in it$"),
        ((HEADER,), r"mine.csv: no proteins in it$"),
        (
            ("seq,label", "ACD,1"),
            r"mine.csv, line 1: no column 'sequence' among seq, label: name it by data.sequence=$",
        ),
        (
            ("sequence,class", "ACD,1"),
            r"mine.csv, line 1: no column 'label' among sequence, class: name it by data.label=",
        ),
        ((HEADER, *GOOD, "ACDEF,x"), r"mine.csv, line 5: 2 cells, not 3 as in the first line$"),
        ((HEADER, *GOOD, "AC-EF,x,train"), r"mine.csv, line 5: letter '-' at position 3"),
        ((HEADER, *GOOD, ",x,train"), r"mine.csv, line 5: no sequence$"),
        ((HEADER, *GOOD, "ACD, ,train"), r"mine.csv, line 5: no label$"),
        ((HEADER, *GOOD, "ACD,x,val"), r"mine.csv, line 5: split is 'val', not one of train, valid, test$"),
        ((HEADER, GOOD[0], "ACDEH,y,train"), r"mine.csv: no row whose split is valid$"),
        ((HEADER, GOOD[1], "ACDEH,x,valid"), r"mine.csv: no row whose split is train$"),
        (
            (HEADER, *GOOD[:2], "ACDEH,nan,train"),
            r"mine.csv, line 4: label 'nan' says that there is none, as do 1 of 3: ",
        ),
        (
            (HEADER, *GOOD[:2], "ACDEH,NA,train", "AC,None,valid"),
            r"line 4: label 'NA' says that there is none, as do 2 of 4",
        ),
        (
            (HEADER, "AC,1,train", "AD,2,train", "AE,-,valid", "AG,3,valid"),
            r"line 4: label '-' says that there is none",
        ),
        (
            (HEADER, 'AC,"1,5",train', 'AD,"2,5",train', 'AE,"3,5",valid', "AG,4,valid"),
            r"mine.csv, line 2: label '1,5' has a comma: write numbers with a point \(task.kind=class takes",
        ),
        (
            (HEADER, GOOD[0], "ACDEG,x,train", "ACDEI,y,valid"),
            r"mine.csv: all training labels are 'x': nothing to learn$",
        ),
        (
            (HEADER, "AC,1,train", "AD,1.0,train", "AE,2,valid"),
            r"mine.csv: all training labels are 1.0: nothing to learn$",
        ),
        (
            (HEADER, "AC,1,train", "AD,2,train", "AE,5,valid", "AG,5.0,valid"),
            r"mine.csv: all 2 valid labels are 5.0: no rank correlation says which weights are best$",
        ),
        (
            ("sequence,label", *(f"{protein(9, n)},HLA-A020{n % 2}" for n in range(40))),
            r"mine.csv: all labels, as 'HLA-A0200', are as long as their sequences, and all sequences have one length: "
            r"say task.kind=class for names of classes, or task.kind=residues for a letter of each residue$",
        ),
        (
            ("Sequence,label", "ACD,1"),
            r"line 1: no column 'sequence' among Sequence, label: did you mean data.sequence=Seq",
        ),
        ((HEADER, GOOD[0], "ACDEG,x,valid"), r"mine.csv: all labels are 'x': nothing to learn$"),
        ((HEADER, *GOOD, '"ACD,x,train'), r"mine.csv, line 5: unexpected end of data$"),
        (
            (HEADER, "AC,1,train", "AD,2,train", "AE,high,valid", "AG,3,valid"),
            r"mine.csv, line 4: label 'high' is no finite number, as others are \(task.kind=class takes labels as names\)$",
        ),
        (
            ("sequence,label", "ACDEF,HHHHH", "ACDEG,  EE "),
            r"mine.csv, line 3: label 'EE' has blanks at its ends, which may be DSSP's loops: write C for them",
        ),
        (
            (HEADER, "ACD,HHH,train", "ADE,EEE,train", "ACDEF,HHEE,valid"),
            r"mine.csv, line 4: label has 4 letters for 5 residues, where others have one for each",
        ),
        (
            (HEADER, "ACDEF,a,train", "ACDEG,b,train", "ACDEH,c,train", "ACDEI,d,valid"),
            r"mine.csv: every protein has a class of its own, as 'a': not the label's column\?$",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, lines: tuple[str, ...], message: str):
    with pytest.raises(InputError, match=message) as error:
        read(written(tmp_path, *lines))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_kinds_and_classes_that_do_not_fit(tmp_path: Path):
    path = labelled(tmp_path, ["a", "b", "a", "a", "b"])
    with pytest.raises(InputError, match=r"line 2: label 'a' is no finite number, as others are \(task.kind=number\)"):
        read(path, kind="number")
    with pytest.raises(InputError, match=r"line 2: label has 1 letters for 10 residues"):
        read(path, kind="residues")
    with pytest.raises(InputError, match=r"line 3: label 'b' is not one of task.classes"):
        read(path, classes=["a", "c"])
    with pytest.raises(InputError, match=r"nowhere.csv: No such file or directory"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"task=custom learns from data.csv=FILE, not from data=synthetic"):
        open_labels(SyntheticDataConfig(), CustomTaskConfig())
    with pytest.raises(InputError, match=r"task.kind=words is not one of auto, class, number, residues"):
        CustomTaskConfig(kind="words")


ALLELES = tuple(f"{protein(9, number)},HLA-A020{number % 2},{SPLIT[number % 5]}" for number in range(40))


def test_a_kind_that_labels_do_not_show_is_taken_from_the_knob(tmp_path: Path):
    path = written(tmp_path, HEADER, *ALLELES)
    assert read(path, kind="class")[1].classes == ["HLA-A0200", "HLA-A0201"]
    assert read(path, kind="residues")[1].classes == sorted(set("HLA-A0201"))
    different = written(tmp_path, HEADER, *(f"{protein(9, n)},{protein(9, 99 + n)},{SPLIT[n % 5]}" for n in range(40)))
    assert read(different)[1].kind == "residues", "names of classes come more than once"


def test_a_word_for_nothing_is_a_class_if_it_is_listed(tmp_path: Path):
    path = labelled(tmp_path, ["none", "one", "none", "one", "none"])
    with pytest.raises(InputError, match="line 2: label 'none' says that there is none, as do 3 of 5"):
        read(path, kind="class")
    assert read(path, classes=["none", "one"])[1].kind == "class"


def test_a_column_of_splits_that_was_named_must_be_there(tmp_path: Path):
    rows = [f"{protein(40, number)},{number % 2},train" for number in range(30)]
    path = written(tmp_path, "sequence,label,Stage", *rows)
    with pytest.raises(InputError, match=r"no column 'fold' among sequence, label, Stage: name it by data.split=$"):
        read(path, split="fold")
    with pytest.raises(InputError, match=r"no column 'stage' among .*: did you mean data.split=Stage\?$"):
        read(path, split="stage")
    with pytest.raises(InputError, match=r"no row whose Stage is valid"):
        read(path, split="Stage")


@pytest.mark.parametrize("name", ["Split", "set", "SET", "stage"])
def test_a_column_that_may_say_the_splits_is_mentioned(tmp_path: Path, name: str):
    rows = [f"{protein(40, number)},{number}.5,train" for number in range(30)]
    path = written(tmp_path, f"sequence,label,{name}", *rows)
    (line,) = [remark for remark in read(path)[0].remarks if remark.startswith("warning")]
    assert f"column '{name}' may say the splits, but is not used, and they are drawn: data.split={name} uses it" in line
    assert not [remark for remark in read(path, split="")[0].remarks if remark.startswith("warning")]


def test_an_empty_name_draws_splits_although_there_is_a_column(tmp_path: Path):
    path = written(tmp_path, "sequence,label,split", *(f"{protein(40, n)},{n % 3}.5,train" for n in range(30)))
    source, _ = read(path, split="")
    assert source.sizes == {"train": 24, "valid": 3, "test": 3}
    assert any(remark.startswith("data.split is empty: drew 30 clusters") for remark in source.remarks)


def test_labels_that_teach_little_are_warned_of(tmp_path: Path):
    splits = ["train"] * 40 + ["valid"] * 20 + ["test"] * 20
    labels = ["x"] * 38 + ["y"] * 2 + ["x"] * 10 + ["y"] * 10 + ["x"] * 20
    sequences = [protein(30, number) for number in range(80)]
    rows = [",".join(row) for row in zip(sequences, labels, splits, strict=True)]
    remarks = read(written(tmp_path, HEADER, *rows))[0].remarks
    assert [remark for remark in remarks if remark.startswith("warning")] == [
        "warning: no test protein has the label y",
        "warning: train: 38 of 40 (95.0%) labels are 'x': always guessing it has that accuracy",
        "warning: test: 20 of 20 (100.0%) labels are 'x': always guessing it has that accuracy",
    ]
    numbers = [row.replace(",x,", ",1,").replace(",y,", ",0,") for row in rows]
    remarks = read(written(tmp_path, HEADER, *numbers))[0].remarks
    assert [remark for remark in remarks if remark.startswith("warning")] == [
        "warning: all test labels are 1.0: their rank correlation is undefined",
        "warning: the numbers are only 0.0 and 1.0: task.kind=class learns them as two classes",
    ]
