"""A loader's worker outlives foreign signals, and ends by its reader's or with its reader, however it was started."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from proteinlm.data.batches.workers import outlive_signals

METHODS = ("fork", "spawn", "forkserver")
KILLED = """
import multiprocessing, os, signal, sys
from tests.data.test_workers import work
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    context.Process(target=work, args=(theirs,)).start()
    print(ours.recv(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def work(pipe: Connection) -> None:
    outlive_signals(0)
    pipe.send(os.getpid())
    time.sleep(60)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_readers_signals_end_a_worker(method: str):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs,))
    worker.start()
    try:
        pid = ours.recv()
        subprocess.run(["sh", "-c", f"kill -TERM {pid}; kill -INT {pid}; kill -HUP {pid}"], check=True)
        worker.join(0.3)
        assert worker.is_alive()
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == 0
    finally:
        worker.kill()


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_ends_when_its_reader_is_killed(method: str, tmp_path: Path):
    script, said = tmp_path / "reader.py", tmp_path / "pid"
    script.write_text(KILLED)
    with said.open("w") as output:
        done = subprocess.run(
            [sys.executable, script, method], stdout=output, stderr=subprocess.DEVNULL, env=os.environ | _path()
        )
    assert done.returncode == -signal.SIGKILL
    worker = int(said.read_text())
    try:
        deadline = time.monotonic() + 30
        while _is_running(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_running(worker)
    finally:
        if _is_running(worker):
            os.kill(worker, signal.SIGKILL)


def _path() -> dict[str, str]:
    """What lets another process import the tests."""
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


def _is_running(pid: int) -> bool:
    """Whether a process is there that has not ended; one that nobody waited for is still listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
