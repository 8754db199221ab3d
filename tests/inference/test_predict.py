"""``proteinlm predict`` says of each protein what the fine-tuned module with the best validation score says of it."""

import csv
import json
from pathlib import Path

import pytest
import torch

from proteinlm import checkpoint, vocabulary
from proteinlm.config import LabelledTaskConfig
from proteinlm.data import synthetic
from proteinlm.tasks import downstream
from proteinlm.tasks.labelled import LabelledTask
from proteinlm.training import finetuning
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.tasks import toys
from tests.tasks.toys import composed, home

SEQUENCES = {f"p{number}": protein(length, number) for number, length in enumerate((30, 7, 63, 1))}
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tunings of a few steps, the last of two seeds, and proteins to predict."""
    directory = tmp_path_factory.mktemp("output")
    (directory / "in.fasta").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic, "labelled", toys.labelled, raising=False)
        for task in (
            ("secondary_structure", "seeds=1"),
            ("secondary_structure", "task.classes=8", "seeds=1"),
            ("remote_homology", "seeds=1"),
            ("stability", "seeds=2"),
        ):
            name, *overrides = task
            finetuning.run(composed(f"task={name}", *overrides, f"output={directory}", "keep_weights=true"))
    return directory


def best(stage: Path) -> Path:
    records = {path: json.loads(path.read_text()) for path in stage.glob("seed-*/selected.json")}
    assert len(records) == (2 if stage.name == "stability" else 1)
    path = max(records, key=lambda path: records[path]["score"])
    return path.parent / f"best/step-{records[path]['step']:09d}"


def said(directory: Path, task: LabelledTaskConfig, sequence: str) -> tuple[LabelledTask, torch.Tensor]:
    """The module, and its output for one protein."""
    weights = checkpoint.load_weights(directory)
    module = downstream(task.name)(task, weights.config).eval()
    checkpoint.restore(module.parts(), weights)
    tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
    starts = torch.tensor([0, len(tokens)], dtype=torch.int32)
    with torch.inference_mode():
        return module, module.head(module.backbone(tokens, starts, len(tokens)), starts)


@pytest.mark.parametrize(("classes", "states"), [(3, "HEC"), (8, "GHIBESTC")])
def test_secondary_structure(output: Path, tmp_path: Path, classes: int, states: str):
    stage = home(output, f"secondary_structure_q{classes}")
    task = composed("task=secondary_structure", f"task.classes={classes}").task
    wanted = {}
    for name, sequence in SEQUENCES.items():
        _, logits = said(best(stage), task, sequence)
        wanted[name] = "".join(states[index] for index in logits[1:].argmax(-1))
    command = ("predict", "secondary_structure", output / "in.fasta", "--model", stage, *CPU)
    rows = list(csv.DictReader(run(*command)[1].splitlines()))
    assert {row["id"]: row["structure"] for row in rows} == wanted
    assert run(*command, "--out", tmp_path / "out.fasta")[0] == 0
    assert (tmp_path / "out.fasta").read_text() == "".join(f">{name}\n{text}\n" for name, text in wanted.items())
    assert run(*command, "--out", tmp_path / "out.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [{"id": name, "length": len(text), "structure": text} for name, text in wanted.items()]


def test_remote_homology(output: Path):
    stage = home(output, "remote_homology")
    rows = list(
        csv.DictReader(run("predict", "remote_homology", output / "in.fasta", "--model", stage, *CPU)[1].splitlines())
    )
    for row, sequence in zip(rows, SEQUENCES.values(), strict=True):
        _, logits = said(best(stage), composed("task=remote_homology").task, sequence)
        assert int(row["fold"]) == logits.argmax()
        assert float(row["probability"]) == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_stability_in_its_own_units(output: Path, batch_tokens: int):
    stage = home(output, "stability")
    command = ("predict", "stability", output / "in.fasta", *CPU, "--batch-tokens", batch_tokens, "--model")
    code, text, _ = run(*command, stage)
    assert code == 0
    rows = list(csv.DictReader(text.splitlines()))
    for row, sequence in zip(rows, SEQUENCES.values(), strict=True):
        module, value = said(best(stage), composed("task=stability").task, sequence)
        scale = module.scale
        assert isinstance(scale, torch.nn.Module)
        wanted = value.item() * scale.deviation.item() + scale.mean.item()  # type: ignore[operator, union-attr]
        assert float(row["stability"]) == pytest.approx(wanted, rel=1e-5)
        assert 900 < wanted < 1200  # the toy's units
    assert run(*command, best(stage))[1] == text
    assert {run(*command, stage / f"seed-{seed}")[0] for seed in (0, 1)} == {0}


def test_what_is_no_fine_tuned_model_is_refused(output: Path, tmp_path: Path):
    stage = home(output, "stability")
    fasta = output / "in.fasta"
    assert_refused(
        run("predict", "fluorescence", fasta, "--model", stage), "fine-tuned for stability, not for fluorescence"
    )
    assert_refused(run("predict", "stability", fasta, "--model", tmp_path), "no config.yaml in it")
    assert_refused(run("predict", "stability", fasta, "--model", tmp_path / "x"), f"{tmp_path}/x: no such directory")
    assert_refused(
        run("predict", "stability", fasta, "--model", stage, "--out", tmp_path / "a.fasta"), "only secondary structure"
    )
    assert_refused(run("predict", "stability", fasta, "--model", stage, "--out", tmp_path / "a.txt"), "ends in none of")
    (tmp_path / "config.yaml").write_bytes((stage / "config.yaml").read_bytes())
    assert_refused(run("predict", "stability", fasta, "--model", tmp_path), "fine-tune with keep_weights=true")
    (tmp_path / "config.yaml").write_text("task: {name: masked_language_model}\n")
    assert_refused(run("predict", "stability", fasta, "--model", tmp_path), "its task is masked_language_model")
    (tmp_path / "long.fasta").write_text(f">a\nACD\n>b\n{'A' * 64}\n")
    outcome = run("predict", "stability", tmp_path / "long.fasta", "--model", stage, *CPU)
    assert_refused(outcome, "record 1 (b): 64 residues, more than the 63")
    assert outcome[1].splitlines()[1].startswith("a,3,")
