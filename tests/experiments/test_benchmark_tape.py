"""TAPE's files are benchmarks of a frozen model: each test split is scored on the labels that TAPE's records have."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.named import open_benchmark
from proteinlm.errors import InputError
from proteinlm.launch import entry
from tests.data.samples import protein
from tests.experiments.benchmarks import write_tape
from tests.inference.models import saved


def labels(root: Path, name: str, split: str) -> list[str]:
    rows = open_benchmark(root, name, split).splits[split]
    return [row.label for row in rows.splits["test"]]


def test_structures_are_those_of_resolved_residues(tmp_path: Path):
    chain = {"primary": "MKTA", "ss3": [0, 1, 2, 0], "valid_mask": [1.0, 1.0, 1.0, 0.0]}
    both = chain | {"cb513_mask": [0.0, 1.0, 1.0, 1.0]}
    write_tape(
        tmp_path,
        "secondary_structure",
        train=[chain],
        valid=[chain],
        cb513=[both, chain],
        ts115=[chain],
        casp12=[chain],
    )
    assert labels(tmp_path, "tape/secondary_structure", "cb513") == ["HEC?", "HEC?"]
    assert labels(tmp_path, "tape/secondary_structure", "cb513_proper") == ["?EC?", "????"]
    rows = open_benchmark(tmp_path, "tape/secondary_structure", "cb513").splits["cb513"]
    assert rows.task.classes == ["H", "E", "C"]
    assert rows.remarks == ("TAPE's UniRep, trained with the task's head: 0.73",)
    assert set(open_benchmark(tmp_path, "tape/secondary_structure").splits) == {
        "cb513",
        "cb513_proper",
        "ts115",
        "casp12",
    }
    write_tape(tmp_path, "secondary_structure", cb513=[chain])
    assert set(open_benchmark(tmp_path, "tape/secondary_structure").splits) == {"cb513", "ts115", "casp12"}
    with pytest.raises(InputError, match="no record of cb513 has a cb513_mask"):
        open_benchmark(tmp_path, "tape/secondary_structure", "cb513_proper")


def test_folds_that_nothing_is_trained_on_are_left_out_and_named(tmp_path: Path):
    folds = [{"primary": protein(9, fold), "fold_label": fold} for fold in (3, 20, 20)]
    tests = [*folds, {"primary": protein(9, 9), "fold_label": 7}]
    write_tape(tmp_path, "remote_homology", train=folds, valid=folds, test_fold_holdout=tests)
    rows = open_benchmark(tmp_path, "tape/remote_homology", "test_fold_holdout").splits["test_fold_holdout"]
    assert rows.task.classes == ["3", "20"]
    assert [row.label for row in rows.splits["test"]] == ["3", "20", "20"]
    assert rows.remarks[0].startswith("1 proteins are of classes that nothing is trained on")


def test_a_frozen_model_is_scored_beside_what_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def records(seeds: range) -> list[dict[str, Any]]:
        sequences = [protein(20, seed) for seed in seeds]
        return [{"primary": each, "stability_score": [each.count("A") - each.count("K") / 3]} for each in sequences]

    write_tape(
        tmp_path, "stability", train=records(range(60)), valid=records(range(60, 80)), test=records(range(80, 110))
    )
    model = saved(tmp_path / "model", head=False)
    words = ["benchmark=tape/stability", f"root={tmp_path}", f"model.path={model}", f"cache={tmp_path / 'cache'}"]
    benchmark.run(entry.compose("benchmark", [*words, f"output={tmp_path / 'out'}", "name=ours", "resamples=30"]))
    output = capsys.readouterr()
    assert "tape/stability test: train 60, valid 20, test 30 proteins, 30 labels to test on" in output.out
    assert "trained with the task's head: 0.73" in output.err
    (kept,) = (tmp_path / "out").rglob("predictions.npz")
    arrays = np.load(kept)
    wanted = [record["stability_score"][0] for record in records(range(80, 110))]
    np.testing.assert_array_equal(arrays["target"], wanted)
    assert np.corrcoef(arrays["ridge on one-hot"], wanted)[0, 1] > 0.3
    assert np.ptp(arrays["ours"]) > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "stability_train.json.gz: damaged"),
        (gzip.compress(b'[{"id": "a"}]'), "stability, train: a record has no"),
    ],
    ids=["no gzip", "no labels"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str):
    write_tape(tmp_path, "stability", train=[], valid=[], test=[])
    (tmp_path / "tape/stability/stability_train.json.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_benchmark(tmp_path, "tape/stability")
