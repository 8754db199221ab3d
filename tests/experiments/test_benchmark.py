"""A frozen model meets what needs no network on FLIP's and PBC's files; what is there is not computed again."""

import itertools
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import baselines, contest, embeddings, records
from experiments.benchmark.named import open_benchmark
from proteinlm.data.formats.biotrainer import Row
from proteinlm.errors import InputError
from proteinlm.inference.model import Model, Pooling, load
from tests.data.samples import protein
from tests.experiments.benchmarks import TARGET, add_split, ask, flip
from tests.runs import ROOT


def test_levenshtein_is_the_shortest_way_between_two_words():
    def plain(first: str, second: str) -> int:
        if not first or not second:
            return len(first) + len(second)
        return min(
            plain(first[1:], second) + 1,
            plain(first, second[1:]) + 1,
            plain(first[1:], second[1:]) + (first[0] != second[0]),
        )

    words = ["".join(letters) for size in range(4) for letters in itertools.product("AC", repeat=size)]
    for first, second in itertools.product(words, [*words, "ACCA", "CACAC"]):
        assert baselines.levenshtein([first], second).tolist() == [-plain(first, second)]
    assert baselines.levenshtein(["KITTEN"], "SITTING").tolist() == [-3]


def test_blosum62_of_some_pairs_and_its_sum():
    known = {"AA": 4, "WW": 11, "CC": 9, "WF": 1, "IV": 3, "DE": 2, "GI": -4, "KR": 2, "YH": 2, "PW": -4, "ST": 1}
    assert {pair: baselines.BLOSUM62[frozenset(pair)] for pair in known} == known
    assert len(baselines.BLOSUM62) == 210
    assert baselines.blosum62(["AW", "WF"], "WF").tolist() == [-3 + 1, 11 + 6]


def test_a_ridge_solves_the_penalised_equations():
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(80, 5)), rng.normal(size=80)
    penalty, centred = 3.0, features - features.mean(axis=0)
    stacked = np.concatenate([centred, np.sqrt(penalty) * np.eye(5)])
    weights = np.linalg.lstsq(stacked, np.concatenate([target - target.mean(), np.zeros(5)]), rcond=None)[0]
    asked = rng.normal(size=(7, 5))
    found = baselines.flips_ridge(features, target, penalty)(asked)
    assert found == pytest.approx((asked - features.mean(axis=0)) @ weights + target.mean())


def test_embeddings_are_computed_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = load(weights)
    sequences = [protein(20, 1), protein(12, 2), protein(20, 1)]
    monkeypatch.setattr(embeddings, "RESIDUES", 15)  # a file for each
    found = dict(embeddings.embed(model, sequences, "residue", tmp_path)(sequences))
    for sequence, expected in zip(sequences, model.embed(sequences, "residue"), strict=True):
        assert found[sequence] == pytest.approx(expected, rel=2e-3, abs=2e-3)
    monkeypatch.setattr(Model, "pool", lambda *_: pytest.fail("computed again"))
    again = dict(embeddings.embed(model, sequences, "residue", tmp_path)(sequences))
    assert all(np.array_equal(again[sequence], found[sequence]) for sequence in sequences)


def test_splits_that_share_proteins_share_their_embeddings(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flip(tmp_path)
    add_split(tmp_path, "all", every=1)
    add_split(tmp_path, "half", every=2)
    computed: list[bytes] = []
    pool = Model.pool

    def counted(model: Model, letters: list[np.ndarray], pooling: Pooling) -> list[np.ndarray]:
        computed.extend(each.tobytes() for each in letters)
        return pool(model, letters, pooling)

    monkeypatch.setattr(Model, "pool", counted)
    ask(
        "flip/small",
        f"root={tmp_path}",
        f"model.path={weights}",
        f"cache={tmp_path}",
        f"output={tmp_path / 'out'}",
        "resamples=30",
    )
    assert len(list((tmp_path / "out").rglob("benchmark.json"))) == 3
    assert len(computed) == len(set(computed)) == 90


def test_processes_that_embed_at_once_share_what_they_compute(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sequences = [protein(20, number) for number in range(6)]
    cache, log, pool = tmp_path / "cache", tmp_path / "log", Model.pool

    def slow(model: Model, letters: list[np.ndarray], pooling: Pooling) -> list[np.ndarray]:
        with log.open("a") as written:
            written.write("".join(f"{each.tobytes().decode()}\n" for each in letters))
        time.sleep(0.2)
        return pool(model, letters, pooling)

    def embed(split: list[str]) -> None:
        assert dict(embeddings.embed(load(weights), split, "mean", cache)(split)).keys() == set(split)

    monkeypatch.setattr(Model, "pool", slow)
    fork = multiprocessing.get_context("fork")
    splits = (sequences[:4], sequences[:4], sequences[2:])
    processes = [fork.Process(target=embed, args=(split,)) for split in splits]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert sorted(log.read_text().split()) == sorted(sequences)
    (folder,) = cache.iterdir()
    assert {file.suffix for file in folder.iterdir()} == {".npz"}


def test_splits_choose_the_same_proteins():
    rows = [Row(n, "", protein(20, n), str(n), "") for n in range(200)]
    assert contest.chosen(rows, 0) == contest.chosen(rows, 200) == rows
    some = contest.chosen(rows, 50)
    assert some == [row for row in rows if row in some]  # in their order
    assert len(some) == 50
    of_others = contest.chosen(rows[::-2], 50)
    assert set(some) & set(rows[1::2]) <= set(of_others)


def test_damaged_embeddings_are_named(weights: Path, tmp_path: Path):
    model = load(weights)
    embeddings.embed(model, [TARGET], "mean", tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=f"{file}: damaged, remove it"):
        embeddings.embed(model, [TARGET], "mean", tmp_path)


def test_random_weights_have_the_shape_and_another_fingerprint(weights: Path):
    machine = load(weights).machine
    drawn = [embeddings.load_model(weights, True, seed, machine) for seed in (0, 0, 1)]
    vectors = [model.embed([TARGET]) for model in drawn]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    assert len({model.fingerprint for model in drawn} | {load(weights).fingerprint}) == 3


def test_a_benchmark_gives_a_table_and_is_not_computed_again(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    flip(tmp_path)
    words = [
        "flip/small",
        f"root={tmp_path}",
        f"model.path={weights}",
        f"cache={tmp_path}",
        f"output={tmp_path / 'out'}",
        "control=true",
    ]
    ask(*words, "resamples=30")
    table = capsys.readouterr().out
    assert "flip/small drawn: train 48, valid 12, test 30 proteins, 30 labels to test on" in table
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert names == [
        weights.name,
        f"{weights.name}, random weights, seed 0",
        "mean",
        "ridge on one-hot",
        "ridge on one-hot, as FLIP",
        "site-independent",
    ]
    (mean,) = (line for line in table.splitlines() if line.startswith("| mean"))
    assert mean.replace("*", "").startswith("| mean | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) |")
    (ranks,) = (line for line in table.splitlines() if line.startswith("| site-independent"))
    assert ranks.split("|")[4].strip() == "undefined"  # it is in no unit of the target
    (file,) = (tmp_path / "out").rglob("benchmark.json")
    assert file.parent == tmp_path / "out" / "benchmarks" / weights.name / "flip_small" / "drawn"
    found = records.load(file).of(weights.name)
    assert found.value == pytest.approx(_again(file.parent, weights.name))
    assert found.low < found.value < found.high
    monkeypatch.setattr(contest, "model_predictions", lambda *_: pytest.fail("computed again"))
    ask(*words, "resamples=30")
    assert capsys.readouterr().out == table
    with pytest.raises(InputError, match="holds a result of other options"):
        ask(*words, "resamples=40")


def _again(directory: Path, name: str) -> float:
    from scipy.stats import spearmanr

    saved = np.load(directory / "predictions.npz")
    return float(np.asarray(spearmanr(saved[name], saved["target"]))[0])


def test_a_multirun_runs_each_split_and_an_unknown_knob_is_named(tmp_path: Path):
    flip(tmp_path)
    add_split(tmp_path, "all", every=1)
    words = ["-m", "flip/small", f"root={tmp_path}", "network=false", f"output={tmp_path}/out", "resamples=30"]
    command = [sys.executable, "-m", "experiments.benchmark", *words, f"hydra.sweep.dir={tmp_path}/sweeps"]
    ended = subprocess.run([*command, "split=drawn,all"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Launching" in ended.stdout  # Hydra's own line of the jobs is as plain as ours
    assert "[HYDRA]" not in ended.stdout
    home = tmp_path / "out" / "benchmarks" / "without-a-network"
    assert sorted(record.split for record in records.load_all(home)) == ["all", "drawn"]
    assert "ridge on one-hot" in (home / "flip-small-drawn.log").read_text()
    ended = subprocess.run([*command, "splt=drawn"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "splt" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_relatives_between_test_and_training_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    known = [protein(60, number) for number in range(6)]
    others = [known[0], known[1][:-1] + "A", protein(60, 50), protein(60, 51)]
    records = [f">k{n} SET={'val' if n > 3 else 'train'} TARGET={n}\n{each}\n" for n, each in enumerate(known)]
    records += [f">t{n} SET=test TARGET={n}\n{each}\n" for n, each in enumerate(others)]
    (tmp_path / "pbc").mkdir()
    (tmp_path / "pbc" / "some.fasta").write_text("".join(records))
    ask("pbc/some", f"root={tmp_path}", "network=false", f"output={tmp_path / 'out'}", "resamples=30", "relatives=true")
    assert "50.0% at least 90%, 50.0% at least 70%, 50.0% at least 50%, 50.0% at least 30%" in capsys.readouterr().out


def test_residues_are_scored_where_they_have_a_label(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(4)
    records = []
    for number in range(30):
        sequence = protein(20, number)
        numbers = [
            999.0 if rng.random() < 0.2 else float("AVILMFW".count(letter)) + rng.normal() / 10 for letter in sequence
        ]
        said = ("train", "val", "test")[number % 3]
        records.append(f">p{number} SET={said} TARGET={';'.join(map(str, numbers))}\n{sequence}\n")
    (tmp_path / "pbc").mkdir()
    (tmp_path / "pbc" / "greasy.fasta").write_text("".join(records))
    ask("pbc/greasy", f"root={tmp_path}", "network=false", f"output={tmp_path / 'out'}", "resamples=30")
    table = capsys.readouterr().out
    missing = sum(record.count("999.0") for record in records[2::3])
    assert f"{10 * 20 - missing} labels to test on" in table
    line = next(line for line in table.splitlines() if line.startswith("| window"))
    assert float(line.split("|")[2].strip(" *").split()[0]) > 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scop/fold"], "scop/fold is not flip/NAME, pbc/NAME or tape/NAME"),
        (["tape/fold"], "tape/fold is not one of tape/secondary_structure"),
        (["tape/stability", "split=cb513"], r"split=cb513 is not one of test \(tape/stability\)"),
        (["tape/stability"], r"stability_train\.json: no such file, nor with \.gz"),
        (["flip/none"], "none_splits.zip: not there"),
        (["pbc/none"], "none.fasta: not there"),
        (["pbc/../flip/x"], "not there"),
        (["flip/small", "split=other"], r"split=other is not one of drawn \(flip/small\)"),
        (["flip/small", "splt=drawn"], "splt"),
        (["flip/small", "resamples=many"], "resamples"),
        (["proteingym/substitutions", "part=0/3"], "part=0/3 is not as in 3/16"),
        (["proteingym/substitutions", "method=luck"], "method=luck is not one of"),
    ],
)
def test_a_word_that_means_nothing_is_named(tmp_path: Path, words: list[str], message: str):
    flip(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        ask(*words, f"root={tmp_path}", "network=false")
    assert "\n" not in str(caught.value)


def test_parts_of_a_benchmark_are_named_where_the_whole_is_missing(tmp_path: Path):
    (tmp_path / "pbc").mkdir()
    for part in ("scl_val.fasta.gz", "scl_sethard.fasta"):
        (tmp_path / "pbc" / part).write_bytes(b"")
    expected = r"pbc/scl\.fasta: not there, nor with \.gz: scl_sethard\.fasta, scl_val\.fasta\.gz are parts of it: join"
    with pytest.raises(InputError, match=expected):
        open_benchmark(tmp_path, "pbc/scl")


def test_a_damaged_archive_is_named(tmp_path: Path):
    (tmp_path / "flip").mkdir()
    (tmp_path / "flip" / "bad_splits.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"bad_splits\.zip: damaged"):
        open_benchmark(tmp_path, "flip/bad")
