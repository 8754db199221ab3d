"""One, two and four processes train on the same steps and reach the same losses and weights up to rounding."""

import csv
import json
from pathlib import Path

import pytest

from proteinlm import pretraining
from tests.runs import SMALL, composed, finish, furthest, home, in_group, start, weights

OVERRIDES = (*SMALL, "optim.learning_rate=1e-3")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    pretraining.run(composed(*OVERRIDES, f"output={output}"))
    return output


def losses(output: Path) -> dict[tuple[str, str], float]:
    with (home(output) / "metrics.csv").open() as file:
        return {(row[0], row[1]): float(row[2]) for row in list(csv.reader(file))[1:] if row[1].endswith("loss")}


def assert_agree(ours: Path, theirs: Path) -> None:
    assert losses(ours).keys() == losses(theirs).keys()
    assert len(losses(ours)) == 12 + 2 * 2  # each step, and two splits validated twice
    for name, loss in losses(ours).items():
        assert loss == pytest.approx(losses(theirs)[name], abs=1e-5), name
    assert furthest(weights(ours), weights(theirs)) < 2e-4


@pytest.mark.parametrize("world", [2, 4])
def test_groups_agree_with_one_process(alone: Path, tmp_path: Path, world: int):
    config = composed(*OVERRIDES, "strategy=ddp", f"strategy.devices={world}", f"output={tmp_path}")
    in_group(world, lambda: pretraining.run(config))
    assert_agree(tmp_path, alone)


def test_the_command_line_starts_its_own_group(alone: Path, tmp_path: Path):
    finish(start(tmp_path, *OVERRIDES, "strategy=ddp", "strategy.devices=2", "train.workers=1"))
    assert_agree(tmp_path, alone)
    result = json.loads((home(tmp_path) / "result.json").read_text())
    assert result["processes"] == 2
    assert result["tokens"] == json.loads((home(alone) / "result.json").read_text())["tokens"]
