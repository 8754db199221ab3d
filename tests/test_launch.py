"""A process takes the threads that it was given: by OMP_NUM_THREADS, by Slurm, or its share of the cores it may run on."""

import os

import pytest

from proteinlm import launch


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
    assert launch.threads(processes) == expected


@pytest.mark.usefixtures("eight_cores")
def test_a_fresh_group_is_told_its_threads(monkeypatch: pytest.MonkeyPatch):
    seen = {}

    class Ended:
        returncode = 0

    def started(command: list[str], env: dict[str, str]) -> Ended:
        seen.update(env)
        return Ended()

    monkeypatch.setattr(launch.subprocess, "run", started)
    launch.in_fresh_group("experiments.pretrain", [], 4, None)
    assert seen["OMP_NUM_THREADS"] == "2"
