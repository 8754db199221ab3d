"""A model learns a user's own labels from a CSV file, keeps the names of the classes, and predicts them from FASTA."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from proteinlm.config import FinetuneConfig
from proteinlm.training import finetuning
from proteinlm.vocabulary import AMINO_ACIDS
from tests.inference.commands import run
from tests.tasks.toys import composed, home

SHORT = ("seeds=1", "keep_weights=true", "task.tokens=24576", "task.validations=4", "model.dropout=0")


def written(directory: Path, kind: str) -> Path:
    """Proteins whose labels follow from their letters alone; the first half of the alphabet is ``low``."""
    generator = np.random.default_rng(0)
    path = directory / "mine.csv"
    with path.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "sequence", "label", "split"))
        for number in range(90):
            many = generator.random()  # letters of the first half
            ids = np.where(generator.random(24) < many, generator.integers(0, 10, 24), generator.integers(10, 20, 24))
            low = ids < 10
            label = {
                "class": "low" if low.mean() > 0.5 else "high",
                "number": f"{1000 + 50 * low.mean():.3f}",
                "residues": "".join("Lh"[int(not each)] for each in low),
            }[kind]
            split = "train" if number < 60 else "valid" if number < 75 else "test"
            rows.writerow((f"p{number}", "".join(AMINO_ACIDS[each] for each in ids), label, split))
    return path


def config(directory: Path, kind: str, *overrides: str) -> FinetuneConfig:
    return composed("task=custom", f"data.csv={written(directory, kind)}", f"output={directory}", *SHORT, *overrides)


def predicted(directory: Path, *more: object) -> list[dict[str, str]]:
    """What ``proteinlm predict`` says of the test proteins, beside their labels as ``wanted``."""
    with (directory / "mine.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"]
    fasta = directory / "in.fasta"
    fasta.write_text("".join(f">{row['id']}\n{row['sequence']}\n" for row in tested))
    code, text, errors = run("predict", "custom", fasta, "--model", home(directory, "custom"), "--device", "cpu", *more)
    assert code == 0, errors
    said = list(csv.DictReader(text.splitlines()))
    return [one | {"wanted": row["label"]} for one, row in zip(said, tested, strict=True)] if not more else said


def test_classes_are_predicted_by_name(tmp_path: Path):
    result = finetuning.run(config(tmp_path, "class"))
    score = result.score("custom", "test", "accuracy")
    assert score is not None
    assert (score.n, score.value > 0.7, score.low is not None) == (15, True, True)
    rows = predicted(tmp_path)
    assert list(rows[0]) == ["id", "length", "label", "probability", "probability_high", "probability_low", "wanted"]
    assert np.mean([row["label"] == row["wanted"] for row in rows]) == pytest.approx(score.value)
    for row in rows:
        assert float(row["probability"]) == float(row[f"probability_{row['label']}"]) >= 0.5
        assert float(row["probability_low"]) + float(row["probability_high"]) == pytest.approx(1, abs=1e-5)
    (best,) = home(tmp_path, "custom").glob("seed-0/best/*")
    assert json.loads((best / "task.json").read_text())["classes"] == ["high", "low"]


def test_numbers_are_predicted_in_their_own_unit(tmp_path: Path):
    score = finetuning.run(config(tmp_path, "number")).score("custom", "test", "spearman")
    assert score is not None
    assert (score.n, score.value > 0.6) == (15, True)
    rows = predicted(tmp_path)
    assert list(rows[0]) == ["id", "length", "label", "wanted"]
    assert all(abs(float(row["label"]) - float(row["wanted"])) < 30 for row in rows)


def test_residues_are_predicted_as_strings(tmp_path: Path):
    score = finetuning.run(config(tmp_path, "residues")).score("custom", "test", "accuracy")
    assert score is not None
    assert score.value > 0.8
    rows = predicted(tmp_path)
    right = [a == b for row in rows for a, b in zip(row["labels"], row["wanted"], strict=True)]
    assert np.mean(right) == pytest.approx(score.value)
    predicted(tmp_path, "--out", tmp_path / "out.fasta")
    assert (tmp_path / "out.fasta").read_text() == "".join(f">{row['id']}\n{row['labels']}\n" for row in rows)


def test_a_finished_file_is_not_learnt_again_and_a_changed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    once = config(tmp_path, "class", "task.tokens=1024", "task.validations=1")
    result = finetuning.run(once)
    assert "custom: train 60, valid 15, test 15 proteins\nlabels: one of 2 classes" in capsys.readouterr().err
    moved = tmp_path / "elsewhere.csv"
    (tmp_path / "mine.csv").rename(moved)
    again = composed(
        "task=custom", f"data.csv={moved}", f"output={tmp_path}", *SHORT, "task.tokens=1024", "task.validations=1"
    )
    monkeypatch.setattr(finetuning.Finetuning, "run", None)
    assert finetuning.run(again).scores == result.scores
    moved.write_text(moved.read_text().replace("p3,", "p3,A", 1))
    with pytest.raises(finetuning.InputError, match=r"belongs to another config .inputs.data is"):
        finetuning.run(again)
