"""Any signal ends a group or a multirun in good order: processes save, jobs are named, and the status is passed up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runs import ROOT

MEMBER = """
import os, sys, time
from pathlib import Path
from proteinlm.launch import processes, signals

signals.install()
processes.follow_parent()
rank, home = os.environ.get("RANK", "0"), Path(sys.argv[1])
if sys.argv[2:] == ["fails"] and rank == "1":
    raise SystemExit(3)
with signals.deferred():
    (home / f"up-{rank}").write_text(str(os.getpid()))
    while not signals.stop_requested():
        time.sleep(0.02)
    time.sleep(0.2)
    (home / f"saved-{rank}").write_text(os.environ.get("WORLD_SIZE", "1"))
    raise signals.Stopped(signals.stop_requested(), "")
"""
WAITING = """
import sys
from pathlib import Path
from proteinlm.launch import entry, processes, signals

def main():
    processes.run_group("member", sys.argv[2:], int(sys.argv[1]), None)
    return 0

signals.install()
entry.command(main)
"""
JOBS = """
import time
from pathlib import Path
from proteinlm.config import RunConfig
from proteinlm.launch import entry, signals

@entry.hydra_main("pretrain")
def main(config: RunConfig) -> None:
    entry.start("jobs", config, run)

def run(config: RunConfig) -> None:
    import os
    home = Path(config.output)
    (home / f"up-{config.name}").write_text(str(os.getpid()))
    with signals.deferred():
        for _ in range(20 if config.name == "short" else 10_000):
            time.sleep(0.02)
            if number := signals.stop_requested():
                (home / f"saved-{config.name}").touch()
                raise signals.Stopped(number, "stopped after step 3; the same command goes on")
    (home / f"done-{config.name}").touch()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    for name, code in (("member", MEMBER), ("waiting", WAITING), ("jobs", JOBS)):
        (tmp_path / f"{name}.py").write_text(code)

    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        command = [sys.executable, "-m", *words]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:  # where a test has failed before it stopped them
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def pid(file: Path) -> int:
    """The process that has written its number there, once it has."""
    for _ in range(1200):
        if file.exists() and (text := file.read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError(f"{file.name} never began")


def gone(number: int) -> bool:
    """Whether the process ends soon."""
    for _ in range(200):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("size", [1, 2])
def test_a_signal_for_the_one_that_waits_stops_the_group(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], number: signal.Signals, size: int
):
    waiting = start("waiting", str(size), str(tmp_path))
    members = [pid(tmp_path / f"up-{rank}") for rank in range(size)]
    waiting.send_signal(number)
    assert waiting.wait(60) == 128 + number
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in range(size)] == [str(size)] * size
    assert all(map(gone, members))


def test_the_status_of_a_member_that_was_stopped_is_passed_up(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
):
    waiting = start("waiting", "1", str(tmp_path))
    os.kill(pid(tmp_path / "up-0"), signal.SIGTERM)
    assert waiting.wait(60) == 143
    assert (tmp_path / "saved-0").exists()


def test_a_member_that_fails_ends_the_others(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]):
    waiting = start("waiting", "2", str(tmp_path), "fails")
    assert waiting.wait(60) == 2
    assert waiting.stderr
    assert waiting.stderr.read() == f"error: member {tmp_path} fails: exit code 3\n"
    if (tmp_path / "up-0").exists():
        assert gone(pid(tmp_path / "up-0"))


def test_a_member_that_is_killed_is_said_to_be(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]):
    waiting = start("waiting", "1", str(tmp_path))
    os.kill(pid(tmp_path / "up-0"), signal.SIGKILL)
    assert waiting.wait(60) == 2
    assert waiting.stderr
    assert "killed by SIGKILL" in waiting.stderr.read()


def multirun(start: Callable[..., subprocess.Popen[str]], home: Path, jobs: int, names: str) -> subprocess.Popen[str]:
    return start("jobs", "-m", f"output={home}", f"hydra.launcher.n_jobs={jobs}", f"name={names}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_for_a_multirun_stops_its_jobs(tmp_path: Path, start: Callable[..., subprocess.Popen[str]], jobs: int):
    whole = multirun(start, tmp_path, jobs, "a,b,c")
    running = "ab"[:jobs]
    members = [pid(tmp_path / f"up-{name}") for name in running]
    whole.send_signal(signal.SIGINT)
    assert whole.wait(60) == 130
    assert whole.stderr
    printed = whole.stderr.read()
    assert {file.name for file in tmp_path.glob("saved-*")} == {f"saved-{name}" for name in running}
    assert {file.name for file in tmp_path.glob("up-*")} == {f"up-{name}" for name in running}
    assert all(map(gone, members))
    assert printed.count(": stopped, see ") == jobs
    assert printed.endswith("\nstopped; the same command goes on\n")
    assert "Traceback" not in printed


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_that_is_stopped_is_named_and_the_others_go_on(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], jobs: int
):
    whole = multirun(start, tmp_path, jobs, "a,short")
    os.kill(pid(tmp_path / "up-a"), signal.SIGTERM)
    assert whole.wait(60) == 143
    assert whole.stderr
    printed = whole.stderr.read()
    assert (tmp_path / "saved-a").exists()
    assert (tmp_path / "done-short").exists()
    assert f"a: stopped, see {tmp_path}/single/a/log.txt; the same command goes on" in printed.splitlines()
    assert "Traceback" not in printed
