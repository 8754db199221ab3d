"""A job gets the processes it asks for or is refused; each takes the threads it was given, or its share of the cores."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proteinlm.launch import cores, processes
from tests.runs import ROOT, Command


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000, 1008)))  # no such CPUs: no siblings known
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({}, 1, 8),
        ({}, 2, 4),
        ({}, 3, 2),
        ({}, 16, 1),
        ({"SLURM_CPUS_PER_TASK": "3"}, 2, 3),
        ({"SLURM_CPUS_PER_TASK": "16"}, 2, 8),
        ({"OMP_NUM_THREADS": "5"}, 2, 5),
        ({"OMP_NUM_THREADS": "5", "SLURM_CPUS_PER_TASK": "3"}, 2, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 1, 4),
        ({"OMP_NUM_THREADS": ""}, 2, 4),
    ],
)
@pytest.mark.usefixtures("eight_cores")
def test_threads(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], processes: int, expected: int):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores.threads(processes) == expected


@pytest.mark.usefixtures("eight_cores")
def test_a_fresh_group_is_told_its_threads(monkeypatch: pytest.MonkeyPatch):
    seen = {}

    real = subprocess.Popen

    def started(command: list[str], env: dict[str, str], **settings: Any) -> subprocess.Popen[bytes]:
        seen.update(env)
        return real([sys.executable, "-c", ""], **settings)

    monkeypatch.setattr(processes.subprocess, "Popen", started)
    processes.run_group("proteinlm", ["pretrain"], 4, None)
    assert seen["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["launcher=slurm"], "error: launcher=slurm submits the jobs of a multirun: add -m"),
        (["launcher=slurm", "-m"], "error: launcher=slurm submits jobs with sbatch, which is not here: "),
        (
            ["strategy=hsdp", "strategy.nodes=2", "strategy.devices=2"],
            "error: strategy.nodes=2, but this starts processes on one machine: ",
        ),
    ],
)
def test_what_would_start_too_few_processes_is_refused(tmp_path: Path, words: list[str], line: str):
    command = ["model=tiny", f"output={tmp_path}", *words]
    script = {
        "PATH": str(tmp_path),
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
    }  # of a batch script on a cluster, which has started nobody else
    process = Command("proteinlm", ["pretrain", *command], script)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(line)
    assert not list(tmp_path.iterdir())


def test_a_stage_starts_without_libraries_that_it_does_not_use():
    code = (
        "import sys\n"
        "from proteinlm.launch import entry\n"
        "with entry.importing():\n"
        "    from proteinlm.training import finetuning, pretraining\n"
        "imported = {module.partition('.')[0] for module in sys.modules}\n"
        "print(*sorted(imported & {*entry.UNUSED, 'lightning', 'torchmetrics'}))\n"
        "from lightning_utilities.core.imports import RequirementCache, package_available\n"
        "print(all(package_available(name) and RequirementCache(name) for name in entry.UNUSED))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["lightning torchmetrics", "True"]
