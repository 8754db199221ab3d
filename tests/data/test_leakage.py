"""A relative is found wherever it is, with the identity of an exhaustive alignment; who has none is known by number."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from proteinlm.cli import app
from proteinlm.data import store
from proteinlm.data.similarity import leakage
from proteinlm.data.similarity.alignment import align, overlap
from proteinlm.data.similarity.search import Words
from proteinlm.errors import InputError
from tests.data.samples import tape_record, write_tape

needs_mmseqs = pytest.mark.skipif(not shutil.which("mmseqs"), reason="no mmseqs (Debian: mmseqs2)")
LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)


def mutated(protein: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """With this share of other residues, evenly spread."""
    changed = protein.copy()
    places = random.choice(len(protein), round(share * len(protein)), replace=False)
    changed[places] = LETTERS[(np.searchsorted(LETTERS, protein[places]) + random.integers(1, 20, len(places))) % 20]
    return changed


def exhaustive(query: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Matches and columns of the best local alignment of all (Smith and Waterman 1981)."""
    cells = np.zeros((len(query) + 1, len(target) + 1), object)
    cells[:] = [[(0, 0, 0)] * (len(target) + 1)] * (len(query) + 1)
    for i, one in enumerate(query):
        for j, other in enumerate(target):
            steps = [(0, 0, 0)]
            for (score, matches, columns), gain in (
                (cells[i, j], 2 if one == other else -1),
                (cells[i, j + 1], -2),
                (cells[i + 1, j], -2),
            ):
                steps.append((score + gain, matches + (gain == 2), columns + 1))
            cells[i + 1, j + 1] = max(step for step in steps if step[0] >= 0)
    best = max(cells.ravel())
    return best[1], best[2]


def test_it_is_the_best_alignment():
    random = np.random.default_rng(0)
    queries, targets, diagonals = [], [], []
    for _ in range(30):
        query = random.choice(LETTERS, random.integers(10, 40))
        middle, ahead = int(random.integers(3, len(query) - 3)), int(random.integers(0, 60))
        inserted, before = random.choice(LETTERS, random.integers(0, 8)), random.choice(LETTERS, ahead)
        target = np.concatenate([before, mutated(query[:middle], 0.1, random), inserted, query[middle:]])
        swapped = random.random() < 0.5
        queries.append(target if swapped else query)
        targets.append(query if swapped else target)
        diagonals.append(-ahead if swapped else ahead)
    found = align(queries, targets, np.array(diagonals))
    for number, pair in enumerate(zip(queries, targets, strict=True)):
        assert (found.matches[number], found.columns[number]) == exhaustive(*pair)


@pytest.mark.parametrize("diagonal", [0, 20, -20])
@pytest.mark.parametrize("deleted", [False, True])
def test_sixteen_residues_may_be_inserted_and_no_more(deleted: bool, diagonal: int):
    """Two halves of 40 residues; `diagonal` is that of the first, and the second is as many further as are inserted."""
    random = np.random.default_rng(3)
    halves = random.choice(LETTERS[:10], (2, 40))
    ahead = random.choice(LETTERS[10:15], abs(diagonal))
    longer = {more: np.concatenate([halves[0], random.choice(LETTERS[15:], more), halves[1]]) for more in (16, 18)}
    for more, target in longer.items():
        pair = [halves.ravel(), target][:: -1 if deleted else 1]
        pair[diagonal > 0] = np.concatenate([ahead, pair[diagonal > 0]])
        found = align([pair[0]], [pair[1]], np.array([diagonal]))
        whole = more == 16
        assert (found.matches.item(), found.columns.item()) == ((80, 96) if whole else (40, 40))


def test_overlaps_are_counted():
    pairs = [(ours, theirs, diagonal) for ours in (5, 9) for theirs in (5, 9) for diagonal in range(-4, 5)]
    expected = [sum(0 <= i + diagonal < theirs for i in range(ours)) for ours, theirs, diagonal in pairs]
    ours, theirs, diagonals = zip(*pairs, strict=True)
    found = overlap([np.zeros(length) for length in ours], [np.zeros(length) for length in theirs], np.array(diagonals))
    assert found.tolist() == expected


@pytest.mark.parametrize("identity", [0.9, 0.75])
def test_relatives_are_found_among_strangers(identity: float):
    random = np.random.default_rng(1)
    targets = [random.choice(LETTERS, random.integers(60, 300)) for _ in range(300)]
    queries = [mutated(target, 1 - identity, random) for target in targets[:100]]
    hits = Words(targets).relatives([*queries, *(random.choice(LETTERS, 200) for _ in range(100))])
    found = {q: i for q, t, i in zip(hits.query, hits.target, hits.identity, strict=True) if q == t}
    assert len(found) >= 99
    assert np.mean(list(found.values())) == pytest.approx(identity, abs=0.01)
    strangers = hits.identity[(hits.query != hits.target)]
    assert not (strangers > 0.5).any()


def test_a_domain_is_a_relative_of_its_protein_but_a_shared_tail_is_not():
    random = np.random.default_rng(2)
    protein, other = random.choice(LETTERS, 300), random.choice(LETTERS, 300)
    hits = Words([protein]).relatives([protein[100:180], np.concatenate([other, protein[:100]])])
    assert hits.query.tolist() == [0, 1]
    assert hits.identity.tolist() == [1.0, 0.0]


def fragment_pair(covered: int, shorter: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A protein of `shorter` residues and a longer one that have `covered` residues in a row in common, and no others.

    What is not shared is built from other letters on either side, so that no alignment can be extended into it.
    """
    shared = random.choice(LETTERS[:12], covered)
    alone = random.choice(LETTERS[12:16], shorter - covered)
    others = [random.choice(LETTERS[16:], size) for size in (90, 110)]
    return np.concatenate([shared, alone]), np.concatenate([others[0], shared, others[1]])


@pytest.mark.parametrize("by", [leakage.built_in, pytest.param(leakage.mmseqs, marks=needs_mmseqs)])
def test_a_relative_covers_eighty_percent_of_the_shorter(by: leakage.Search):
    shares = [100, 150, 157, 163, 190]  # residues of 200
    pairs = [fragment_pair(share, 200, np.random.default_rng(share + many)) for many in range(3) for share in shares]
    short, long = zip(*pairs, strict=True)
    for queries, targets in ((short, long), (long, short)):
        assert (by(queries, targets) > 0.9).tolist() == [share >= 160 for share in shares] * 3


def test_the_bound_itself_is_covered():
    short, long = fragment_pair(160, 200, np.random.default_rng(0))
    assert leakage.built_in([short], [long]).tolist() == [1.0]


@needs_mmseqs
def test_mmseqs_counts_coverage_of_the_shorter_as_the_built_in_search_does():
    random = np.random.default_rng(2)
    protein, other = random.choice(LETTERS, 300), random.choice(LETTERS, 300)
    near = mutated(protein, 0.3, random)
    queries = [protein[100:180], np.concatenate([other, protein[:100]]), near, random.choice(LETTERS, 200)]
    found, expected = leakage.mmseqs(queries, [protein]), leakage.built_in(queries, [protein])
    assert found[[0, 1, 3]].tolist() == expected[[0, 1, 3]].tolist() == [1.0, 0.0, 0.0]
    assert found[2] == pytest.approx(0.7, abs=0.02)


def test_the_closest_that_mmseqs_names_and_that_covers_enough(monkeypatch: pytest.MonkeyPatch):
    """Its columns: query, identity, coverage of query and of target, length of query and of target."""
    lines = (f"0 {identity} 0.85 0.2 50 200" for identity in (0.6, 0.9, 0.7))
    found = "\n".join((*lines, "1 0.5 0.2 0.8 200 50", "2 0.9 0.5 0.9 50 90", ""))

    def mmseqs(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["mmseqs", "easy-search"]
        assert Path(command[2]).read_text() == ">0\nACD\n>1\nDEF\n>2\nAAA\n"
        assert command[command.index("--min-seq-id") + 1] == "0.3"
        Path(command[4]).write_text(found.replace(" ", "\t"))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(leakage.subprocess, "run", mmseqs)
    queries = [np.frombuffer(letters, np.uint8) for letters in (b"ACD", b"DEF", b"AAA")]
    assert leakage.mmseqs(queries, queries).tolist() == [0.9, 0.5, 0.0]


@pytest.mark.parametrize(
    ("name", "installed", "chosen"),
    [
        ("auto", True, leakage.mmseqs),
        ("auto", False, leakage.built_in),
        ("mmseqs", True, leakage.mmseqs),
        ("built-in", True, leakage.built_in),
        ("built-in", False, leakage.built_in),
    ],
)
def test_mmseqs_is_taken_where_it_is(
    name: str, installed: bool, chosen: leakage.Search, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leakage.shutil, "which", lambda tool: f"/usr/bin/{tool}" if installed else None)
    assert leakage.search(name) is chosen
    if not installed:
        with pytest.raises(InputError, match="no mmseqs here"):
            leakage.search("mmseqs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three test proteins: one from the corpus, one from the training split, and one like no other."""
    train = [
        tape_record("stability", index) | {"primary": tape_record("pfam", 50 + index)["primary"] * 3}
        for index in range(4)
    ]
    corpus = [tape_record("pfam", index) | {"primary": tape_record("pfam", index)["primary"] * 3} for index in range(4)]
    test = [
        tape_record("stability", 10 + index) | {"primary": primary}
        for index, primary in enumerate(
            (corpus[2]["primary"], train[1]["primary"], tape_record("pfam", 99)["primary"] * 3)
        )
    ]
    write_tape(tmp_path / "data", "stability", "train", train)
    write_tape(tmp_path / "data", "stability", "test", test)
    write_tape(tmp_path / "data", "pfam", "train", corpus)
    return tmp_path / "data"


@pytest.mark.parametrize("by", ["built-in", pytest.param("mmseqs", marks=needs_mmseqs)])
def test_the_report_knows_who_has_a_relative(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str):
    monkeypatch.setenv("PROTEINLM_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "relatives.arrow"
    said = CliRunner().invoke(app, ["data", "leakage", str(root), "--out", str(out), "--with", by])
    assert said.exit_code == 0, said.output
    assert "stability test (3 proteins), in corpus  33.3%" in said.output
    assert "stability test (3 proteins), in train   33.3%" in said.output
    relatives, opened = leakage.load(out), store.ensure(root, tmp_path / "cache")
    assert relatives.closest["stability", "test"].tolist() == [1.0, 1.0, 0.0]
    assert (relatives.data, relatives.unsearched) == ({"stability": opened.fingerprint("stability")}, [])
    table = pa.ipc.open_file(out).read_all()
    assert table["corpus"].to_pylist() == [1.0, 0.0, 0.0]
    assert table["train"].to_pylist() == [0.0, 1.0, 0.0]


def test_a_benchmarks_test_set_is_searched_for_in_the_corpus_and_in_its_own_training(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PROTEINLM_CACHE", str(tmp_path / "cache"))
    of_corpus, own, strange = (tape_record("pfam", index)["primary"] * 3 for index in (2, 50, 60))
    rows = [(own, 1, "train,"), (strange[::-1], 2, "train,True"), (own[:-1] + "W", 3, "test,"), (of_corpus, 4, "test,")]
    others = [
        (strange, 5, "test,"),
        (strange[::-1] + "A", 6, "test,"),
        (of_corpus[::-1], 8, "train,"),
        (own[::-1], 7, "train,True"),
    ]
    file = tmp_path / "gb1.csv"
    file.write_text("sequence,target,set,validation\n" + "".join(f"{s},{t},{r}\n" for s, t, r in rows + others))
    out = tmp_path / "relatives.arrow"
    words = ["data", "leakage", str(root), "--out", str(out), "--with", "built-in", "--labels", str(file)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "gb1 test (4 proteins), in corpus  25.0%" in said.output
    assert "gb1 test (4 proteins), in train   25.0%" in said.output
    relatives = leakage.load(out)
    assert (relatives.closest["gb1", "test"] > 0.9).tolist() == [True, True, False, False]
    assert relatives.closest["stability", "test"].tolist() == [1.0, 1.0, 0.0]
    assert relatives.data.keys() == {"stability", "gb1"}
    twice = CliRunner().invoke(app, [*words, "--labels", str(shutil.copy(file, tmp_path / "gb1.v2.csv"))])
    assert twice.exit_code == 2
    assert "another file is called gb1, too" in twice.output
    taken = CliRunner().invoke(app, [*words[:-1], str(shutil.copy(file, tmp_path / "stability.csv"))])
    assert taken.exit_code == 2
    assert "stability is a task of" in taken.output
    file.write_text(
        "sequence,label,split\n"
        + "".join(f"{s},{t},train\n" for s, t, _ in rows)
        + f"{strange},3,valid\n{own},4,valid\n"
    )
    without = CliRunner().invoke(app, words)
    assert without.exit_code == 2
    assert "no protein is for the test" in without.output


def test_shares_are_of_nine_seven_five_and_three_tenths():
    identities = np.array([1.0, 0.9, 0.7, 0.69, 0.5, 0.3, 0.29, 0.0])
    found = leakage.shares(leakage.Closest("stability", "test", identities, np.full(8, np.nan)))
    assert found["corpus"] == {"0.9": 2 / 8, "0.7": 3 / 8, "0.5": 5 / 8, "0.3": 6 / 8}
    assert np.isnan(list(found["train"].values())).all()


def test_a_corpus_that_is_not_there_was_not_searched(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROTEINLM_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(root / "pfam")
    out = tmp_path / "relatives.arrow"
    said = CliRunner().invoke(app, ["data", "leakage", str(root), "--out", str(out), "--with", "built-in"])
    assert said.exit_code == 0, said.output
    assert "stability test (3 proteins), in corpus not there" in said.output
    assert leakage.load(out).unsearched == ["corpus"]
    assert leakage.load(out).closest["stability", "test"].tolist() == [0.0, 1.0, 0.0]


def test_what_is_no_report_is_one_line(tmp_path: Path):
    (tmp_path / "x").write_text("something else")
    with pytest.raises(InputError, match="not what `proteinlm data leakage` wrote"):
        leakage.load(tmp_path / "x")
