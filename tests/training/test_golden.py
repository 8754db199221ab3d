"""Twelve steps of each recipe and of each downstream task end in the losses of the committed tables: no number has changed.

A change that is meant to change numbers writes the tables again, and says so: ``python -m tests.training.test_golden``.
"""

import csv
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from proteinlm.tasks import TASKS
from proteinlm.training import finetuning, pretraining
from tests.runs import SMALL, composed
from tests.tasks import toys

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-6
"""Relative, or absolute below 1."""
RATE = "1e-3"
"""Of AdamW: small steps keep the last digits of different processors from growing."""

Losses = dict[tuple[int, str], float]
"""By step and metric."""


def pretrain(output: Path, *overrides: str) -> None:
    pretraining.run(composed(*SMALL, "train.precision=fp32", f"output={output}", *overrides))


def finetune(output: Path, task: str) -> None:
    with toys.in_place():
        finetuning.run(toys.composed(f"task={task}", f"output={output}", f"task.learning_rate={RATE}", "seeds=1"))


RUNS: dict[str, Callable[[Path], None]] = {
    "paper": lambda output: pretrain(output, "recipe=paper", f"optim.learning_rate={RATE}"),
    "modern": lambda output: pretrain(output, "recipe=modern", f"optim.learning_rate={RATE}"),
    **{task: lambda output, task=task: finetune(output, task) for task in TASKS},
}


def losses(run: Callable[[Path], None]) -> Losses:
    """Losses of all steps of a run, and those of its validations."""
    with tempfile.TemporaryDirectory() as output:
        run(Path(output))
        (metrics,) = Path(output).rglob("metrics.csv")
        return read(metrics)


def read(file: Path) -> Losses:
    with file.open(newline="") as lines:
        rows = [(int(row["step"]), row["metric"], float(row["value"])) for row in csv.DictReader(lines)]
    return {(step, name): value for step, name, value in rows if name in ("train/loss", "valid/loss")}


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_the_golden_ones(name: str):
    found, golden = losses(RUNS[name]), read(GOLDEN / f"{name}.csv")
    assert found.keys() == golden.keys()
    assert {step for step, metric in golden if metric == "train/loss"} == set(range(1, 13))
    different = {
        key: (found[key], golden[key])
        for key in golden
        if not math.isclose(found[key], golden[key], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    }
    assert not different


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for name, run in RUNS.items():
        with (GOLDEN / f"{name}.csv").open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["step", "metric", "value"])
            writer.writerows([step, metric, repr(value)] for (step, metric), value in losses(run).items())
