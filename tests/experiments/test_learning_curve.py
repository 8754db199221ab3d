"""A learning curve's heads learn what they can see on frozen features, and its linear one is the benchmark's probe."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import learning_curve
from experiments.benchmark.contest import Source, Split
from experiments.benchmark.learning_curve import OF_PROTEINS, predictions
from proteinlm.config import CustomTaskConfig
from proteinlm.data.csv_labels import LabelledRows
from proteinlm.data.formats.biotrainer import Row
from proteinlm.errors import InputError
from proteinlm.records.measures import spearman
from tests.data.samples import protein
from tests.experiments.benchmarks import write_tape
from tests.inference.models import saved

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def one_hot(sequence: str) -> np.ndarray:
    return np.eye(len(LETTERS), dtype=np.float16)[[LETTERS.index(letter) for letter in sequence]]


def each(features: Callable[[str], np.ndarray]) -> Source:
    return lambda sequences: ((sequence, features(sequence)) for sequence in sequences)


def split(kind: str, classes: list[str], label: dict[str, str]) -> Split:
    rows = [Row(number, str(number), sequence, own, "") for number, (sequence, own) in enumerate(label.items())]
    third = len(rows) // 3
    parts = {"train": rows[: -2 * third], "valid": rows[-2 * third : -third], "test": rows[-third:]}
    return Split(LabelledRows(Path("made"), parts, CustomTaskConfig(kind=kind, classes=classes), ()))


def test_a_convolution_sees_the_residues_that_come_after_and_a_linear_map_does_not():
    def states(sequence: str) -> str:  # whether the residue two further on is of the alphabet's first half
        return "".join("H" if letter < "L" else "E" for letter in sequence[2:] + "AA")

    made = split("residues", ["H", "E"], {one: states(one) for one in (protein(30, seed) for seed in range(240))})
    target = made.test.target
    found = predictions(made, ["linear", "convolution"], each(one_hot), seed=0)
    right = {name: (own == target).mean() for name, own in found.items()}
    assert right["convolution"] > 0.9
    assert right["linear"] < 0.7


@pytest.mark.parametrize("head", OF_PROTEINS)
def test_a_hidden_layer_learns_a_product_that_a_linear_map_cannot(head: str):
    sequences = [protein(12, seed) for seed in range(1500)]
    places = {sequence: place for place, sequence in enumerate(sequences)}

    def features(sequence: str) -> np.ndarray:
        return np.random.default_rng(places[sequence]).standard_normal(2).astype(np.float16).repeat(32)

    label = {one: str(features(one)[0] * features(one)[-1]) for one in sequences}
    made = split("number", [], label)
    found = predictions(made, ["linear", head], each(features), seed=0)
    assert spearman(found[head], made.test.target) > 0.6
    assert abs(spearman(found["linear"], made.test.target)) < 0.2
    again = predictions(made, [head], each(features), seed=0)
    np.testing.assert_array_equal(again[head], found[head])


def test_the_table_has_a_line_for_each_head_and_number_of_proteins(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def records(seeds: range) -> list[dict[str, object]]:
        return [{"primary": protein(20, seed), "fold_label": seed % 3} for seed in seeds]

    parts = {"train": records(range(60)), "valid": records(range(60, 80)), "test_fold_holdout": records(range(80, 95))}
    write_tape(tmp_path, "remote_homology", **parts)
    model = saved(tmp_path / "model", head=False)
    words = ["tape/remote_homology", "--root", str(tmp_path), "--model", str(model), "--split", "test_fold_holdout"]
    words += ["--resamples", "30", "--cache", str(tmp_path / "cache"), "--heads", "linear,weight_norm"]
    assert learning_curve.main([*words, "--proteins", "20,0", "--valid", "10"]) == 0
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "proteins |" in line]
    assert lines == [f"{head}, {count} proteins" for count in (20, 60) for head in ("linear", "weight_norm")]
    with pytest.raises(InputError, match="--heads convolution is not one of linear, mlp, weight_norm"):
        learning_curve.main([*words, "--proteins", "20", "--heads", "convolution"])
