"""The harness that kills runs finds nothing wrong with ours, and does find what is wrong with runs that lose something."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.torture import killed_runs
from experiments.torture.killed_runs import KilledRun
from experiments.torture.processes import Victim
from proteinlm.checkpoint import run
from proteinlm.tasks.base import TaskModule


def faults(output: Path, scenario: str, kills: int) -> list[str]:
    killed_runs.main(["--output", str(output), "--only", scenario, "--kills", str(kills), "--seconds", "60"])
    episodes = json.loads((output / "torture.json").read_text())
    assert sum(sum(episode["kills"].values()) for episode in episodes) >= kills
    return [fault for episode in episodes for fault in episode["faults"]]


@pytest.mark.parametrize("scenario", ["pretrain, damaged checkpoints", "finetune"])
def test_nothing_is_lost(tmp_path: Path, scenario: str):
    assert faults(tmp_path, scenario, 2) == []
    said = (tmp_path / "torture.md").read_text()
    assert f"| {scenario} |" in said


def test_a_step_that_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load = TaskModule.on_load_checkpoint

    def skipping(self: TaskModule, checkpoint: dict[str, Any]) -> None:
        if checkpoint["global_step"] < killed_runs.STEPS - 2:  # a forged end would skip the last validation too
            checkpoint["global_step"] += 1
        load(self, checkpoint)

    monkeypatch.setattr(TaskModule, "on_load_checkpoint", skipping)
    monkeypatch.setattr(KilledRun, "_kill", kill_after_three_steps)
    found = " ".join(faults(tmp_path, "pretrain", 2))
    assert "its last good checkpoint was of step" in found
    assert "other records than an undisturbed run's" in found


def kill_after_three_steps(self: KilledRun, victim: Victim, kind: str) -> str:
    """Not at a random moment: where the step is left out must not depend on how busy the machine is."""
    records = victim.directory / "0.records"
    while not (records.exists() and records.read_text().count("\n") > 3 * killed_runs.MICRO_BATCHES):
        if victim.wait(0.005):
            return ""
    victim.kill(signal.SIGKILL, [0])
    return "SIGKILL"


def test_a_start_from_a_damaged_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "verify", lambda file: None)
    assert faults(tmp_path, "pretrain, damaged checkpoints", 4)
