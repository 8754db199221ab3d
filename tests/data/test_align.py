"""`proteinlm data align` writes what a search finds as a3m, once; the search itself is HMMER's, where it is installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from proteinlm.data.alignments import building
from proteinlm.data.alignments.building import Search, a3m_rows
from proteinlm.data.alignments.reading import read_alignment
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run


def test_rows_are_written_in_the_columns_of_the_query(tmp_path: Path):
    rows = [("q", "AC..DEF"), ("b", "ACWWDE-"), ("c", "-----EF"), ("d", "acyxDEF")]
    made = a3m_rows("q", "ACDEF", rows, Search(coverage=0.5))
    assert made == [("q", "ACDEF"), ("b", "ACwwDE-"), ("d", "ACyxDEF")]
    (tmp_path / "x.a3m").write_text(building.write_a3m(made))
    assert [row.tobytes() for row in read_alignment(tmp_path / "x.a3m").letters] == [b"ACDEF", b"ACDE-", b"ACDEF"]


def test_without_pyhmmer_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyhmmer", None)
    (tmp_path / "q.fasta").write_text(">q\nACD\n")
    words = ("data", "align", tmp_path / "q.fasta", "--against", tmp_path / "q.fasta", "--out", tmp_path / "out")
    assert_refused(run(*words), "data align needs pyhmmer: pip install 'proteinlm[align]'")


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (">a\nACD\n>a\nACE\n", "record 1 (a): a name that came before, as a"),
        (">a/b\nACD\n>a_b\nACE\n", "record 1 (a_b): a name that came before, as a_b"),
    ],
)
def test_queries_that_would_share_a_file_are_refused(tmp_path: Path, queries: str, message: str):
    (tmp_path / "q.fasta").write_text(queries)
    words = ("data", "align", tmp_path / "q.fasta", "--against", tmp_path / "q.fasta", "--out", tmp_path / "out")
    assert_refused(run(*words), message)


def test_relatives_are_found_once(tmp_path: Path):
    """Ten relatives at 70 % identity among fifty proteins that are none; what is finished is not searched again."""
    pytest.importorskip("pyhmmer", reason="pyhmmer is not installed: pip install 'proteinlm[align]'")
    generator, query = np.random.default_rng(0), protein(120, 0)
    records = [f">other{seed}\n{protein(150, seed)}\n" for seed in range(100, 150)]
    for number in range(10):
        other = protein(120, 1000 + number)
        kept = generator.random(120) < 0.7
        relative = "".join(a if same else b for a, b, same in zip(query, other, kept, strict=True))
        records.append(f">relative{number} of the query\nMKK{relative[:60]}GGG{relative[60:]}\n")
    (tmp_path / "corpus.fasta").write_text("".join(records))
    (tmp_path / "q.fasta").write_text(f">query/1-120\n{query}\n>none\n{protein(100, 7)}\n")
    words = ("data", "align", tmp_path / "q.fasta", "--against", tmp_path / "corpus.fasta", "--out", tmp_path / "out")
    words += ("--evalue", "1e-9")
    code, output, _ = run(*words)
    assert (code, output.count("\n")) == (0, 2)
    assert "query_1-120.a3m: 10 relatives\n" in output
    assert "none.a3m: no relatives: the query alone\n" in output
    alignment = read_alignment(tmp_path / "out/query_1-120.a3m")
    assert alignment.names[0] == "query/1-120"
    assert alignment.query.tobytes().decode() == query
    assert {name.split("/")[0] for name in alignment.names[1:]} == {f"relative{number}" for number in range(10)}
    assert ((alignment.letters == alignment.query).mean(axis=1) > 0.5).all()
    assert "ggg" in (tmp_path / "out/query_1-120.a3m").read_text()
    before = (tmp_path / "out/query_1-120.a3m").stat().st_mtime_ns
    (tmp_path / "out/none.a3m").unlink()
    code, output, _ = run(*words)
    assert code == 0
    assert "query_1-120.a3m: 10 relatives, already there\n" in output
    assert (tmp_path / "out/query_1-120.a3m").stat().st_mtime_ns == before
    assert (tmp_path / "out/none.a3m").is_file()
    assert_refused(run(*words, "--rounds", "2"), "belongs to another corpus or search")
