"""One, two and four processes train on the same steps and reach the same losses and weights up to rounding."""

import csv
import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from proteinlm import pretraining
from tests.runs import SMALL, composed, finish, furthest, home, start, weights

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


def member(rank: int, world: int, port: int, overrides: tuple[str, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    pretraining.run(composed(*overrides))


def in_group(world: int, *overrides: str) -> None:
    """Run the pretraining stage in `world` processes, forked so that they need not import everything again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=member, args=(rank, world, port, overrides)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * world


@pytest.mark.parametrize("world", [2, 4])
def test_groups_agree_with_one_process(alone: Path, tmp_path: Path, world: int):
    in_group(world, *OVERRIDES, "strategy=ddp", f"strategy.devices={world}", f"output={tmp_path}")
    assert_agree(tmp_path, alone)


def test_the_command_line_starts_its_own_group(alone: Path, tmp_path: Path):
    finish(start(tmp_path, *OVERRIDES, "strategy=ddp", "strategy.devices=2", "train.workers=1"))
    assert_agree(tmp_path, alone)
    result = json.loads((home(tmp_path) / "result.json").read_text())
    assert result["processes"] == 2
    assert result["tokens"] == json.loads((home(alone) / "result.json").read_text())["tokens"]
