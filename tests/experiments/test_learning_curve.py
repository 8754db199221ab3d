"""A learning curve's heads learn what they can see on frozen features, a batch of which is in memory at a time."""

import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmark import learning_curve
from experiments.benchmark.contest import Source, Split
from experiments.benchmark.learning_curve import OF_MEANS, Labelled, predictions
from proteinlm.config import CustomTaskConfig
from proteinlm.data.csv_labels import LabelledRows
from proteinlm.data.formats.biotrainer import Row
from proteinlm.errors import InputError
from proteinlm.inference.model import Pooling
from proteinlm.records.measures import spearman
from tests.data.samples import protein
from tests.experiments.benchmarks import flip, write_tape
from tests.inference.models import saved

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def one_hot(sequence: str) -> np.ndarray:
    return np.eye(len(LETTERS), dtype=np.float16)[[LETTERS.index(letter) for letter in sequence]]


def each(features: Callable[[str], np.ndarray]) -> Source:
    return lambda sequences: ((sequence, features(sequence)) for sequence in sequences)


STATES_AND_MEANS: dict[Pooling, Source] = {
    "residue": each(one_hot),
    "mean": each(lambda sequence: one_hot(sequence).mean(axis=0)),
}


def split(kind: str, classes: list[str], label: dict[str, str]) -> Split:
    rows = [Row(number, str(number), sequence, own, "") for number, (sequence, own) in enumerate(label.items())]
    third = len(rows) // 3
    parts = {"train": rows[: -2 * third], "valid": rows[-2 * third : -third], "test": rows[-third:]}
    return Split(LabelledRows(Path("made"), parts, CustomTaskConfig(kind=kind, classes=classes), ()))


def states(sequence: str) -> str:
    """Of each residue, whether the one two further on is of the alphabet's first half."""
    return "".join("H" if letter < "L" else "E" for letter in sequence[2:] + "AA")


def test_a_convolution_sees_the_residues_that_come_after_and_a_linear_map_does_not():
    made = split("residues", ["H", "E"], {one: states(one) for one in (protein(30, seed) for seed in range(160))})
    target = made.test.target
    found = predictions(made, ["linear", "convolution"], {"residue": each(one_hot)}, seed=0)
    right = {name: (own == target).mean() for name, own in found.items()}
    assert right["convolution"] > 0.9
    assert right["linear"] < 0.7


@pytest.mark.parametrize("head", OF_MEANS)
def test_a_hidden_layer_learns_a_product_that_a_linear_map_cannot(head: str):
    sequences = [protein(12, seed) for seed in range(1500)]
    places = {sequence: place for place, sequence in enumerate(sequences)}

    def features(sequence: str) -> np.ndarray:
        return np.random.default_rng(places[sequence]).standard_normal(2).astype(np.float16).repeat(32)

    label = {one: str(features(one)[0] * features(one)[-1]) for one in sequences}
    made = split("number", [], label)
    sources: dict[Pooling, Source] = {"mean": each(features)}
    found = predictions(made, ["linear", head], sources, seed=0)
    assert spearman(found[head], made.test.target) > 0.6
    assert abs(spearman(found["linear"], made.test.target)) < 0.2
    again = predictions(made, [head], sources, seed=0)
    np.testing.assert_array_equal(again[head], found[head])


def test_light_attention_sees_an_order_of_residues_that_the_mean_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning_curve, "TOKENS", 300)

    def label(seed: int) -> tuple[str, str]:
        drawn = random.Random(seed)
        is_together = seed % 2 == 0
        letters = protein(27, seed).replace("W", "A")
        at = [drawn.randrange(25)] * 3 if is_together else sorted(drawn.sample(range(0, 27, 3), 3))
        for place in reversed(at):
            letters = f"{letters[:place]}W{letters[place:]}"
        return letters, "together" if is_together else "apart"

    made = split("class", ["together", "apart"], dict(map(label, range(450))))
    found = predictions(made, ["linear", "light_attention"], STATES_AND_MEANS, seed=0)
    right = {name: (own == made.test.target).mean() for name, own in found.items()}
    assert right["light_attention"] > 0.9
    assert right["linear"] < 0.7


def test_weights_of_positions_learn_where_a_mutation_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning_curve, "TOKENS", 60)
    drawn, weights = random.Random(0), np.random.default_rng(0).normal(size=(3, 8))
    label = {}
    for _ in range(360):
        chosen = [drawn.randrange(8) for _ in range(3)]
        letters = list(protein(20, 1))
        for place, letter in zip((4, 9, 15), chosen, strict=True):
            letters[place] = "ACDEFGHI"[letter]
        label["".join(letters)] = str(sum(weights[place, letter] for place, letter in enumerate(chosen)))
    made = split("number", [], label)
    found = predictions(made, ["linear", "positions"], STATES_AND_MEANS, seed=0)
    assert spearman(found["positions"], made.test.target) > 0.8
    assert spearman(found["linear"], made.test.target) < 0.7  # it knows which residues there are, and not where


def test_the_memory_does_not_grow_with_the_number_of_proteins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning_curve, "TOKENS", 128)
    wide = np.random.default_rng(0).normal(size=(len(LETTERS), 256)).astype(np.float16)

    def features(sequence: str) -> np.ndarray:
        return wide[[LETTERS.index(letter) for letter in sequence]]

    def peak(proteins: int) -> int:
        sequences = [protein(30, seed) for seed in range(proteins)]
        made = split("residues", ["H", "E"], {one: states(one) for one in sequences})
        assert len(made.train.target) + len(made.valid.target) + len(made.test.target) == 30 * proteins
        tracemalloc.start()
        predictions(made, ["convolution"], {"residue": each(features)}, seed=0, epochs=1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(12)  # what is made once
    assert peak(360) < 1.5 * peak(60)


def test_scales_are_those_of_all_rows_at_once():
    rng = np.random.default_rng(0)
    sequences = [protein(12, seed) for seed in range(9)]
    of = {one: rng.normal(loc=100, size=(len(one), 5)).astype(np.float16) for one in sequences}
    for rows in of.values():
        rows[:, 3] = 0.3

    def in_another_order(asked: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        return ((one, of[one]) for one in sorted(asked))

    asked = [*sequences, sequences[4]]  # a protein that comes twice
    mean, deviation = Labelled(asked, [], [], in_another_order).scales()
    every = np.concatenate([of[one] for one in asked]).astype(np.float64)
    np.testing.assert_allclose(mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, np.where(np.arange(5) == 3, 1, every.std(axis=0)), rtol=1e-9)


def test_the_learning_rate_falls_to_zero_over_the_epochs_that_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    rates, step = [], torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(learning_curve, "TOKENS", 90)
    made = split("residues", ["H", "E"], {one: states(one) for one in (protein(30, seed) for seed in range(36))})
    predictions(made, ["mlp"], {"residue": each(one_hot)}, seed=0, epochs=6, learning_rate=2e-3)
    assert rates == pytest.approx([2e-3 * (1 - number / 24) for number in range(24)])  # 4 batches in an epoch


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
    with pytest.raises(InputError, match=r"--learning-rate 0.0: must be above zero"):
        learning_curve.main([*words, "--proteins", "20", "--learning-rate", "0"])


def test_heads_of_states_and_of_means_stand_beside_what_needs_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flip(tmp_path)
    model = saved(tmp_path / "model", head=False)
    words = ["flip/small", "--root", str(tmp_path), "--model", str(model), "--resamples", "30", "--baselines"]
    words += ["--cache", str(tmp_path / "cache"), "--heads", "linear,positions", "--proteins", "0", "--epochs", "2"]
    assert learning_curve.main(words) == 0
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[1:4] == ["linear, 48 proteins", "positions, 48 proteins", "mean"]
    assert "ridge on one-hot, as FLIP" in lines
