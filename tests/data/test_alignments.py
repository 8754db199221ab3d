"""The formats of one alignment give equal arrays; weights, depth and choices of rows are those of plain loops."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from proteinlm.data.alignments import weights
from proteinlm.data.alignments.reading import Alignment, check_query, read_alignment
from proteinlm.data.alignments.subsampling import subsample
from proteinlm.data.alignments.weights import effective_depth, sequence_weights
from proteinlm.errors import InputError

REAL = Path(__file__).parents[2].parent / "shared/data/alignments"

FASTA = ">query of all\nMKt..-CXD\n>b x\nM-aa.-CAD\n>\n-R---R-*D\n"
STOCKHOLM = (
    "# STOCKHOLM 1.0\n#=GF ID one\n\nquery MKt..\n#=GS b DE x\nb     M_aa.\nrecord_2 -R~-.\n\n"
    "query -CXD\nb -CAD\n#=GR b SS ....\nrecord_2 R-*D\n#=GC RF xxxx\n//\n\n"
)


def rows(alignment: Alignment) -> list[str]:
    return [row.tobytes().decode() for row in alignment.letters]


def of(*texts: str) -> np.ndarray:
    return np.array([list(text.encode()) for text in texts], np.uint8)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.a3m", ">query of all\nMK-CXD\n>b\nM-aa-CAD\n>\n-R.y-.--D\n", ["MKCXD", "M-CAD", "-R--D"]),
        ("x.fasta", FASTA, ["MKTCXD", "M-ACAD", "-R---D"]),
        ("x.sto", STOCKHOLM, ["MKTCXD", "M-ACAD", "-R---D"]),
        ("of-unknown-name", STOCKHOLM, ["MKTCXD", "M-ACAD", "-R---D"]),
        ("from_mmseqs.a3m", ">query\nMK-CXD\n>b\nM-aa-CAD\n>\n-R.y-.--D\n\0", ["MKCXD", "M-CAD", "-R--D"]),
        (
            "x.a3m",
            ">query_consensus\nMKACAD\n>query\nMK-CXD\n>b\nM--CAD\n>record_2\n-R---D\n",
            ["MKCXD", "M-CAD", "-R--D"],
        ),
    ],
)
def test_the_columns_are_the_residues_of_the_query(tmp_path: Path, name: str, text: str, expected: list[str]):
    for suffix, packed in (("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)):
        (tmp_path / (name + suffix)).write_bytes(packed(text.encode()))
        alignment = read_alignment(tmp_path / (name + suffix))
        assert rows(alignment) == expected
        assert alignment.names == ["query", "b", "record_2"]


@given(st.lists(st.lists(st.sampled_from("ACDEWX-acd"), min_size=9, max_size=9), min_size=1, max_size=6))
def test_three_formats_of_one_alignment_give_equal_arrays(tmp_path_factory: pytest.TempPathFactory, drawn: list):
    """In the columns where the query has none, relatives have insert states: lower-case in a3m, columns elsewhere."""
    directory = tmp_path_factory.mktemp("formats")
    query = "MKVLAYW"
    order = "qq.qqq.qq"  # places of the query's residues and of inserts
    aligned = [["M", "K", "-", "V", "L", "A", "-", "Y", "W"]]
    aligned += [["C", *(letter.upper() for letter in row[1:])] for row in drawn]
    names = [f"row{number}" for number in range(len(aligned))]
    a3m = [
        "".join(c if place == "q" else c.lower().replace("-", "") for c, place in zip(row, order, strict=True))
        for row in aligned
    ]
    (directory / "x.a3m").write_text("".join(f">{n}\n{row}\n" for n, row in zip(names, a3m, strict=True)))
    (directory / "x.fasta").write_text(
        "".join(
            f">{n}\n{''.join(row[:4])}\r\n{''.join(row[4:]).lower()}\n" for n, row in zip(names, aligned, strict=True)
        )
    )
    blocks = "\n".join(
        "".join(f"{n} {''.join(row[part]).replace('-', '.')}\n" for n, row in zip(names, aligned, strict=True))
        for part in (slice(0, 5), slice(5, 9))
    )
    (directory / "x.sto").write_text(f"# STOCKHOLM 1.0\n{blocks}//\n")
    read = [read_alignment(directory / name) for name in ("x.a3m", "x.fasta", "x.sto")]
    assert rows(read[0])[0] == query
    for other in read[1:]:
        assert other.names == read[0].names
        np.testing.assert_array_equal(other.letters, read[0].letters)


def test_residues_of_the_query_in_lower_case_are_columns_of_its_own(tmp_path: Path):
    """As hmmalign writes what lies outside of its profile, or between two of its columns."""
    (tmp_path / "x.a2m").write_text(">q\nmk..ACaa.D-*\n>b\n.ywvA-..yEF.\n>c\n...m-C...D-.\n")
    alignment = read_alignment(tmp_path / "x.a2m")
    assert rows(alignment) == ["MKACAAD", "--A---E", "---C--D"]
    assert check_query(alignment, np.frombuffer(b"WMKACAADW", np.uint8)) == 1


def test_rows_alone_are_those_of_the_same_alignment_with_headers(tmp_path: Path):
    """As PSICOV and CCMpred read them: a row on each line, without names."""
    lines = [line for line in FASTA.splitlines() if not line.startswith(">")]
    (tmp_path / "x.aln.gz").write_bytes(gzip.compress("\r\n".join(["", *lines]).encode()))
    (tmp_path / "x.fasta").write_text(FASTA)
    alone, named = read_alignment(tmp_path / "x.aln.gz"), read_alignment(tmp_path / "x.fasta")
    np.testing.assert_array_equal(alone.letters, named.letters)
    assert alone.names == ["record_0", "record_1", "record_2"]
    (tmp_path / "y.aln").write_text(FASTA)
    assert read_alignment(tmp_path / "y.aln").names == named.names


def test_rows_that_only_share_inserts_with_the_query_are_left_out(tmp_path: Path):
    (tmp_path / "x.fasta").write_text(">q\nAC--\n>b\n--WY\n>c\nA-WY\n")
    alignment = read_alignment(tmp_path / "x.fasta")
    assert (rows(alignment), alignment.names) == (["AC", "A-"], ["q", "c"])
    np.testing.assert_array_equal(alignment.coverage, [1, 0.5])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.a3m", ">q\nACD\n>b\nAC\n", "x.a3m: record 1 (b) has 2 columns, the query 3"),
        ("x.fasta", ">q\nACD\n>b\nAcCD\n", "has 4 columns, the query 3; the name of a file whose lower-case letters"),
        ("x.a3m", "", "x.a3m: no rows: an empty alignment"),
        ("x.sto", "# STOCKHOLM 1.0\n//\n", "x.sto: no rows: an empty alignment"),
        ("x.a3m", ">q\n---\n>b\nACD\n", "x.a3m: record 0 (q) has no residue"),
        ("x.a3m", ">q\nACD\n>b\n---\n", "x.a3m: record 1 (b) has no residue"),
        ("x.a3m", ">q\nACD\n>b\nA1D\n", "x.a3m: record 1 (b): '1' is neither a residue nor a gap"),
        ("x.a3m", "ACD\n>b\nACD\n", "x.a3m: line 1: a row without header"),
        ("x.a3m", ">q\nACD\n\0>r\nAC\n\0", "x.a3m: several alignments, each with a zero byte at its end"),
        ("x.fasta", "ACD\n", "the name of a file of rows alone ends in .aln"),
        ("x.aln", "\n", "x.aln: no rows: an empty alignment"),
        ("x.aln", "ACD\nA-\n", "x.aln: record 1 (record_1) has 2 columns, the query 3"),
        ("x.aln", "query ACD\n", "x.aln: record 0 (record_0): ' ' is neither a residue nor a gap"),
        ("x.aln", "CLUSTAL W (1.83) alignment\n\nq ACD\n", "x.aln: Clustal's format: write it as aligned FASTA"),
        ("x.sto", "# STOCKHOLM 1.0\nq A C\n//\n", "x.sto: line 2: not a name and a row"),
        ("x.sto", "# STOCKHOLM 1.0\nq AC\n//\n# STOCKHOLM 1.0\n", "x.sto: line 4: a second alignment"),
    ],
)
def test_what_is_no_alignment_is_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as refusal:
        read_alignment(tmp_path / name)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"none.a3m: No such file"):
        read_alignment(tmp_path / "none.a3m")


def test_the_query_is_a_stretch_of_the_protein_and_the_first_row():
    alignment = Alignment(["q", "b"], of("CDEF", "-KLM"), "x.a3m")
    assert check_query(alignment, of("AACDEFW")[0]) == 2
    for protein, message in {
        "CDEW": "x.a3m: its first row has F as residue 4, the protein W",
        "AKLMA": "x.a3m: the protein is row 1 (b), not the first: put it first",
        "WWWWWWW": "x.a3m: its first row, the query, is not part of the protein",
    }.items():
        with pytest.raises(InputError) as refusal:
            check_query(alignment, of(protein)[0])
        assert str(refusal.value) == message


@pytest.mark.parametrize("identity", [0.5, 0.62, 0.8, 1.0])
def test_weights_are_those_of_a_double_loop(monkeypatch: pytest.MonkeyPatch, identity: float):
    monkeypatch.setattr(weights, "BLOCK", 16)
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDE-", np.uint8)[generator.integers(0, 5, (50, 20))]
    letters[10:30] = letters[:20]
    letters[10:30, generator.integers(0, 20, 4)] = ord("W")  # 16 of 20 columns are left: exactly 0.8
    expected = []
    for row in letters:
        alike = 0
        for other in letters:
            alike += sum(a == b for a, b in zip(row.tolist(), other.tolist(), strict=True)) / 20 >= identity
        expected.append(1 / alike)
    np.testing.assert_array_equal(sequence_weights(letters, identity), expected)
    assert effective_depth(letters, identity) == pytest.approx(sum(expected))
    assert min(expected) < 1 or identity == 1.0


def test_diverse_rows_are_those_of_the_greedy_search():
    """The oracle computes every distance anew at each step."""
    generator = np.random.default_rng(1)
    letters = np.frombuffer(b"ACD-", np.uint8)[generator.integers(0, 4, (40, 12))]
    alignment = Alignment([str(row) for row in range(40)], letters, "x")
    chosen = [0]
    while len(chosen) < 9:
        mean = cdist(letters[chosen], letters, "hamming").mean(axis=0)
        chosen.append(max((row for row in range(40) if row not in chosen), key=lambda row: (mean[row].round(9), -row)))
    assert subsample(alignment, 9).names == [str(row) for row in sorted(chosen)]


def test_random_and_first_rows_begin_with_the_query():
    alignment = Alignment([str(row) for row in range(40)], of(*["ACD"] * 40), "x")
    drawn = [int(name) for name in subsample(alignment, 9, "random", seed=3).names]
    assert drawn[0] == 0
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 9
    assert drawn != [int(name) for name in subsample(alignment, 9, "random", seed=4).names]
    assert subsample(alignment, 3, "first").names == ["0", "1", "2"]
    assert subsample(alignment, 50, "random") is alignment
    with pytest.raises(InputError, match="--rows=last is not one of diverse, random, first"):
        subsample(alignment, 3, "last")


@pytest.mark.skipif(not REAL.is_dir(), reason="real alignments are not there")
def test_real_alignments_are_as_deep_as_their_files_say():
    depth = {"1a3a_1_A": (1024, 145), "hhblits_uniclust_2017_10_1a3a_1_A": (1303, 145), "5ahw_1_A": (1024, 125)}
    for name, shape in depth.items():
        alignment = read_alignment(REAL / f"{name}.a3m.gz")
        assert alignment.letters.shape == shape
        assert 0.8 < effective_depth(alignment.letters) / alignment.depth <= 1
