"""Files as FLIP and PBC publish them are read as they are: every protein in its split, and no label where there is none."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from proteinlm.config import CsvDataConfig, CustomTaskConfig
from proteinlm.data.csv_labels import LabelledRows, open_labels, read_rows
from proteinlm.data.label_kinds import residue_numbers
from proteinlm.errors import InputError
from tests.data.samples import protein
from tests.runs import ROOT

REAL = ROOT.parent / "shared" / "data" / "benchmarks"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the published files in ../shared/data")


def rows_of(path: Path, **knobs: object) -> LabelledRows:
    return read_rows(CsvDataConfig(csv=str(path), **knobs), CustomTaskConfig())  # type: ignore[arg-type]


def sizes(read: LabelledRows) -> dict[str, int]:
    return {split: len(rows) for split, rows in read.splits.items()}


def write(directory: Path, text: str, name: str = "labels.fasta") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_target_in_the_header_is_the_proteins(tmp_path: Path):
    path = write(
        tmp_path,
        ">a TARGET=in SET=train VALIDATION=False\nACD\nEF\n>b TARGET=out SET=train VALIDATION=True\nacdeg\n"
        ">c TARGET=out SET=train\nACDEH\n>d TARGET=in SET=test VALIDATION=False\nACDEI\n>e TARGET=in SET=nan\nACDEK\n",
    )
    read = rows_of(path)
    assert sizes(read) == {"train": 2, "valid": 1, "test": 1}
    assert [(row.name, row.line, row.sequence, row.label) for row in read.splits["train"]] == [
        ("a", 1, "ACDEF", "in"),
        ("c", 6, "ACDEH", "out"),
    ]
    assert read.splits["valid"][0].sequence == "ACDEG"
    assert f"{path}: 1 proteins have no set, and are left out" in read.remarks


def test_labels_beside_sequences_are_of_residues(tmp_path: Path):
    path = write(tmp_path, ">a SET=train\nHHCC\n>b SET=train VALIDATION=True\nCCH\n>c SET=test\nHC\n")
    write(tmp_path, ">c\nMK\n>a\nACDE\n>b\nACD\n>unused\nMMM\n", "sequences.fasta")
    write(tmp_path, ">a\n0111\n>b\n111\n>c\n10\n", "mask.fasta")
    read = rows_of(path)
    assert (read.task.kind, read.task.classes) == ("residues", ["C", "H"])
    assert [(row.sequence, row.label) for rows in read.splits.values() for row in rows] == [
        ("ACDE", "?HCC"),
        ("ACD", "CCH"),
        ("MK", "H?"),
    ]


def test_999_and_a_masked_residue_are_no_target(tmp_path: Path):
    path = write(
        tmp_path,
        ">a SET=train TARGET=999.0;1.5;-2 MASK=011\nACD\n>b SET=train TARGET=3;4 MASK=01\nAC\n"
        ">c SET=val TARGET=1;2 MASK=11\nAG\n",
    )
    read = rows_of(path)
    assert read.task.kind == "residue_numbers"
    numbers = [residue_numbers(row).tolist() for row in read.splits["train"]]
    assert np.isnan([numbers[0][0], numbers[1][0]]).all()
    assert (numbers[0][1:], numbers[1][1:]) == ([1.5, -2], [4])
    source, _ = open_labels(CsvDataConfig(csv=str(path)), CustomTaskConfig())
    (first, *_) = source.records("train")
    assert first["label"].dtype == np.float32


def test_flips_columns_are_known(tmp_path: Path):
    path = write(
        tmp_path,
        "sequence,target,set,validation\nACDEF,1.5,train,\nACDEG,2.5,train,True\nACDEH,2,test,\nACDEI,1,train,False\n"
        "ACDEK,3,nan,\nACDEL,2,train,True\n",
        "split.csv",
    )
    read = rows_of(path)
    assert sizes(read) == {"train": 2, "valid": 2, "test": 1}
    assert read.task.kind == "number"


def test_validation_is_drawn_in_whole_clusters_where_there_is_none(tmp_path: Path):
    parents = [protein(60, number) for number in range(30)]
    records = [
        f">{n}-{skip} SET=train TARGET={n}\n{parent[skip:]}\n" for n, parent in enumerate(parents) for skip in (0, 3)
    ]
    path = write(tmp_path, "".join(records) + f">t SET=test TARGET=1\n{protein(50, 99)}\n")
    read = rows_of(path, seed=3)
    assert sizes(read) == {"train": 54, "test": 1, "valid": 6}
    families = [{row.name.split("-")[0] for row in read.splits[split]} for split in ("train", "valid")]
    assert not families[0] & families[1]
    assert any("nothing is for validation: drew 6 of 60 training proteins" in remark for remark in read.remarks)
    assert [row.name for row in read.splits["valid"]] == [row.name for row in rows_of(path, seed=3).splits["valid"]]


@pytest.mark.parametrize(
    ("text", "beside", "message"),
    [
        (">a SET=train TARGET=1\nACDE\n>b SET=train\nACD\n", {}, r"labels.fasta: line 3 \(b\): no TARGET"),
        (">a SET=train TARGET=1;2;3\nACDE\n", {}, r"line 1 \(a\): TARGET has 3 numbers for 4 residues$"),
        (">a SET=dev TARGET=1\nACDE\n", {}, r"line 1 \(a\): SET is 'dev', not one of train, val, test$"),
        (">a SET=train TARGET=1 VALIDATION=maybe\nACDE\n", {}, r"line 1 \(a\): VALIDATION is 'maybe', neither"),
        (">a SET=test TARGET=1 VALIDATION=True\nACDE\n", {}, r"line 1 \(a\): SET is 'test' and VALIDATION is 'True'$"),
        (
            ">a SET=train TARGET=1;2 MASK=011\nAC\n",
            {},
            r"line 1 \(a\): MASK is not a 0 or 1 for each of the 2 residues$",
        ),
        (">a SET=train\nHHCC\n", {}, r"no header has a TARGET, and there is no sequences.fasta beside it"),
        (">a SET=train\nHHCC\n", {"sequences.fasta": ">b\nACDE\n"}, r"line 1 \(a\): not in sequences.fasta$"),
        (
            ">a SET=train\nHHCC\n",
            {"sequences.fasta": ">a\nACD\n"},
            r"line 1 \(a\): 4 labels, 3 letters in sequences.fasta$",
        ),
        (
            ">a SET=train\nHHC\n",
            {"sequences.fasta": ">a\nACD\n", "mask.fasta": ">a\n01x\n"},
            r"line 1 \(a\): mask.fasta is not a 0 or 1",
        ),
        (">a SET=train TARGET=1\nAC1E\n", {}, r"line 1 \(a\): letter '1' at position 3 is not one of"),
        (">a SET=train TARGET=1\n>b\nACD\n", {}, r"line 1 \(a\): a header without sequence$"),
        ("ACD\n>b\nACD\n", {}, r"line 1: a sequence without header$"),
        ("", {}, r"no FASTA records$"),
        (">a SET=train TARGET=1;x\nAC\n", {}, r"line 1: 'x' of residue 2 is no finite number$"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, text: str, beside: Mapping[str, str], message: str):
    path = write(tmp_path, text)
    for name, content in beside.items():
        write(tmp_path, content, name)
    with pytest.raises(InputError, match=message) as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)
    assert "labels.fasta" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ACDEF,1,dev,", "line 2: set is 'dev', neither train nor test"),
        ("ACDEF,1,test,True", "line 2: set is 'test' and validation is True"),
        ("ACDEF,1,train,maybe", "line 2: validation is 'maybe', neither True nor False"),
    ],
)
def test_a_row_of_flip_that_cannot_be_meant_is_named(tmp_path: Path, row: str, message: str):
    path = write(tmp_path, f"sequence,target,set,validation\n{row}\n", "split.csv")
    with pytest.raises(InputError, match=message):
        rows_of(path)


def unpacked(directory: Path, benchmark: str, *names: str) -> Path:
    with zipfile.ZipFile(REAL / "flip" / f"{benchmark}_splits.zip") as archive:
        for name in names:
            (directory / name).write_bytes(archive.read(f"splits/{name}"))
    return directory / names[0]


@real
@pytest.mark.parametrize(
    ("split", "train", "valid", "test"),
    [
        ("one_vs_rest", 25, 3, 8705),
        ("two_vs_rest", 381, 43, 8309),
        ("three_vs_rest", 2691, 299, 5743),
        ("low_vs_high", 4580, 509, 3644),
        ("sampled", 6289, 699, 1745),
    ],
)
def test_flips_gb1_has_the_published_counts(tmp_path: Path, split: str, train: int, valid: int, test: int):
    by_csv = rows_of(unpacked(tmp_path, "gb1", f"{split}.csv"))
    assert sizes(by_csv) == {"train": train, "valid": valid, "test": test}
    assert by_csv.task.kind == "number"
    by_fasta = rows_of(unpacked(tmp_path, "gb1", f"{split}.fasta"))
    for name, rows in by_csv.splits.items():
        assert [row.sequence for row in by_fasta.splits[name]] == [row.sequence for row in rows]
        numbers = [float(row.label) for row in by_fasta.splits[name]]
        assert numbers == pytest.approx([float(row.label) for row in rows], rel=1e-12)  # written with other last digits


@real
@pytest.mark.parametrize(
    ("benchmark", "split", "counts", "classes"),
    [
        ("secondary_structure", "sampled", (9712, 1080, 364), "CEH"),
        ("conservation", "sampled", (9392, 555, 519), "123456789"),
        ("bind", "from_publication", (954, 106, 300), "01234567"),
    ],
)
def test_flips_residues_have_the_published_counts(
    tmp_path: Path, benchmark: str, split: str, counts: tuple[int, ...], classes: str
):
    names = [f"{split}.fasta", "sequences.fasta", *(["mask.fasta"] if benchmark == "secondary_structure" else [])]
    read = rows_of(unpacked(tmp_path, benchmark, *names))
    assert (sizes(read)["train"], sizes(read)["valid"], sizes(read)["test"]) == counts
    assert (read.task.kind, "".join(read.task.classes)) == ("residues", classes)
    unlabelled = sum(row.label.count("?") for rows in read.splits.values() for row in rows)
    assert (unlabelled > 0) == (benchmark == "secondary_structure")


@real
def test_pbcs_disorder_has_no_target_where_it_says_999():
    read = rows_of(REAL / "pbc" / "disorder.fasta.gz")
    assert sizes(read) == {"train": 1050, "valid": 118, "test": 117}
    numbers = [residue_numbers(row) for rows in read.splits.values() for row in rows]
    assert sum(int(np.isnan(each).sum()) for each in numbers) == 6862
    assert max(float(np.nanmax(each)) for each in numbers) < 100
