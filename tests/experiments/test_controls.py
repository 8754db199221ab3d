"""Controls without a network are what they say: a window, the nearest protein, the nearest pairs, residues by position."""

from collections import Counter
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import controls
from proteinlm.config import register_schema
from proteinlm.data.batches.labelled import LabelledProteins
from proteinlm.vocabulary import AMINO_ACIDS
from tests.runs import ROOT, Command


def proteins(texts: list[str], targets: list[np.ndarray]) -> LabelledProteins:
    letters = [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
    return LabelledProteins(letters, targets, np.ones(len(texts), dtype=np.int64), np.arange(len(texts)))


def random_proteins(number: int, length: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(AMINO_ACIDS), length)) for _ in range(number)]


def test_the_nearest_protein_is_found():
    known, asked = random_proteins(40, 60, 0), random_proteins(20, 60, 1)
    asked = [text[:20] + known[number][:30] for number, text in enumerate(asked)]

    def similarity(first: str, second: str) -> float:
        one, two = (Counter(text[place : place + 3] for place in range(len(text) - 2)) for text in (first, second))
        shared = sum(sqrt(count * two[triplet]) for triplet, count in one.items())
        return shared / sqrt(sum(one.values()) * sum(two.values()))

    folds = [np.array(number % 7) for number in range(40)]
    predict = controls.nearest_fold(proteins(known, folds), proteins([], []))
    for text in asked:
        nearest = max(range(40), key=lambda number: similarity(text, known[number]))
        assert predict(np.frombuffer(text.encode(), dtype=np.uint8)).argmax() == folds[nearest]


def test_residues_by_position_are_ridge_regression():
    known, held_out = random_proteins(60, 5, 0), random_proteins(30, 5, 1)
    effect = np.random.default_rng(2).normal(size=(5, 20))

    def value(text: str) -> np.ndarray:
        return np.array(sum(effect[place, AMINO_ACIDS.index(letter)] for place, letter in enumerate(text)))

    train, valid = (proteins(texts, [value(text) for text in texts]) for texts in (known, held_out))
    predict = controls.positions(train, valid)
    found = [float(predict(letters)) for letters in valid.letters]

    def features(texts: list[str]) -> np.ndarray:
        return np.array([[letter == each for letter in text for each in AMINO_ACIDS] for text in texts], dtype=float)

    mean, wanted = features(known).mean(axis=0), np.array(train.targets)
    candidates = []
    for strength in controls.STRENGTHS:  # least squares with the penalty as further equations
        design = np.vstack([features(known) - mean, sqrt(strength) * np.eye(100)])
        weights = np.linalg.lstsq(design, np.append(wanted - wanted.mean(), np.zeros(100)), rcond=None)[0]
        candidates.append((features(held_out) - mean) @ weights + wanted.mean())
    assert any(np.allclose(found, candidate, atol=1e-4) for candidate in candidates)
    assert np.corrcoef(found, np.array(valid.targets))[0, 1] > 0.5


def test_a_window_sees_its_residues_and_nothing_beyond_the_ends():
    texts = random_proteins(60, 40, 0)
    states = [np.array([AMINO_ACIDS.index(text[max(0, place - 8)]) % 3 for place in range(40)]) for text in texts]
    for state in states:
        state[:8] = -1  # not known where the residue eight back is not there
    predict = controls.residue_windows(proteins(texts, states), proteins([], []))
    text = random_proteins(1, 40, 9)[0]
    found = predict(np.frombuffer(text.encode(), dtype=np.uint8)).argmax(axis=1)
    assert found[8:].tolist() == [AMINO_ACIDS.index(text[place - 8]) % 3 for place in range(8, 40)]


def test_every_split_of_every_task_is_scored():
    register_schema()
    for task, of_test in (("contact", "precision_at_l5_separation_6"), ("stability", "spearman")):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = OmegaConf.to_object(compose("finetune", [f"task={task}", "model=tiny", "data.labelled=0.1"]))
        scored = dict(controls.score(config))  # type: ignore[arg-type]
        assert list(scored) == ["valid", "test"]
        assert scored["test"][of_test].n == {"contact": 8, "stability": 40}[task]
        assert scored["test"][of_test].estimate() == pytest.approx(0, abs=0.6)


def test_mutations_are_counted_from_the_wild_type_or_from_the_nearest():
    (wild_type,) = random_proteins(1, 30, 0)
    generator = np.random.default_rng(1)

    def mutant(text: str, mutations: int) -> str:
        letters = list(text)
        for place in generator.choice(len(text), mutations, replace=False):
            letters[place] = generator.choice([letter for letter in AMINO_ACIDS if letter != letters[place]])
        return "".join(letters)

    known = [mutant(wild_type, 1 + number % 3) for number in range(40)] + [wild_type[:-1]]
    train = proteins(known, [np.array(0.0)] * 41)
    from_wild_type = controls.changes_from_consensus(train, train)
    from_nearest = controls.changes_from_nearest(train, train)
    for mutations in range(8):
        text = mutant(wild_type, mutations)
        letters = np.frombuffer(text.encode(), dtype=np.uint8)
        assert from_wild_type(letters) == -mutations
        alike = (sum(a != b for a, b in zip(text, other, strict=False)) + abs(30 - len(other)) for other in known)
        assert from_nearest(letters) == -min(alike)
    shorter = np.frombuffer(wild_type[:-2].encode(), dtype=np.uint8)
    assert from_wild_type(shorter) == -2
    assert from_nearest(shorter) == -1


def test_a_task_without_controls_is_named(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("sequence,label\nACD,1\n")
    process = Command("experiments.controls", ["task=custom", f"data.csv={tmp_path}/mine.csv", "model=tiny"])
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("error: task=custom has no controls, only ")


def test_every_control_of_a_task_is_to_be_had():
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose("finetune", ["task=fluorescence", "model=tiny", "data.labelled=0.1"]))
    found = {name: dict(controls.score(config, name)) for name in controls.CONTROLS["fluorescence"]}  # type: ignore[arg-type]
    assert list(found) == ["ridge on positions", "mutation count"]
    estimates = {name: splits["test"]["spearman"].estimate() for name, splits in found.items()}
    assert len(set(estimates.values())) == 2
