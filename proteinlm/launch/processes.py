"""Groups of processes: how they start, which group this process belongs to, and how they end with their parent.

A group ends in good order: a signal for the process that waits is passed on, every member saves and ends, and the status
of the group is passed up. That is why no launcher stands between: torchrun ends with 1 whatever its processes end with.
"""

import functools
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from proteinlm.errors import InputError
from proteinlm.launch import cores, signals

PARENT = "PROTEINLM_PARENT"
"""Environment variable: the process at whose end its descendants end too."""
GRACE_SECONDS = 60.0
"""How long the others of a group may take to end by themselves after the first has stopped."""
POLL_SECONDS = 0.1


class StoppedJob(InputError):
    """A job of a multirun was stopped by a signal: the multirun goes on with the others, and ends with 128 + `signal`."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.message, self.signal = message, signal

    def __str__(self) -> str:
        return self.message


def run_group(module: str, words: list[str], size: int, log: Path | None) -> None:
    """Start `size` processes of ``python -m module words`` on this machine and wait for them.

    Their output goes to `log` if there is one. Raises `Stopped` if a signal ended them, and `InputError` if they end with
    any other status than 0.
    """
    command = [sys.executable, "-m", module, *words]
    environment = {PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(cores.threads(size)), **os.environ}
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") if log else nullcontext() as output, signals.deferred():
        # a terminal's signals do not reach other process groups: they are passed on once
        members = [
            subprocess.Popen(command, env=environment | ranks, stdout=output, stderr=output, process_group=0)
            for ranks in _ranks(size)
        ]
        try:
            code = _wait(members)
        finally:
            for member in members:
                member.kill()
                member.wait()
        if number := signals.stop_requested() or _signal_of(code):
            raise signals.Stopped(number, "")  # the first process of the group has printed the line
    if code:
        ended = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        raise InputError(f"{module} {' '.join(words)}: {ended}" + (f", see {log}" if log else ""))


def _ranks(size: int) -> list[dict[str, str]]:
    """What each process of a group finds in its environment, as torchrun would have it; nothing for a single one."""
    if size == 1:
        return [{}]
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RUN_ID": "proteinlm",  # by which Lightning knows that the group is there
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def _free_port() -> int:
    """Find a port on which nobody listens, below those that the system gives to connections meanwhile."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InputError("no free port between 20000 and 32000 for the processes of a group")


def _wait(members: list[subprocess.Popen[bytes]]) -> int:
    """Pass signals on and wait for all; return the status of the first that does not end with 0.

    The others would wait for that one: they get a moment to end by themselves, then they are killed by the caller.
    """
    passed_on, until = False, float("inf")
    failure = 0
    while None in [member.poll() for member in members] and time.monotonic() < until:
        if (number := signals.stop_requested()) and not passed_on:
            passed_on = True
            for member in members:
                member.send_signal(number)
        codes = [member.returncode for member in members if member.returncode]
        if codes and not failure:
            failure = codes[0]
            until = time.monotonic() + (GRACE_SECONDS if passed_on or _signal_of(failure) else GRACE_SECONDS / 30)
        time.sleep(POLL_SECONDS)
    return failure or next((member.returncode for member in members if member.returncode), 0)


def _signal_of(code: int) -> int | None:
    """The signal that ended a process in good order, by its status."""
    return code - 128 if code - 128 in signals.SIGNALS else None


@contextmanager
def workers_stopped() -> Iterator[None]:
    """Pass a signal on to the workers of a launcher, once each, as soon as it can be noted by them.

    A worker that has not begun a job yet would die of it, and the launcher would then kill all others.
    """
    over = threading.Event()

    def watch() -> None:
        told: set[int] = set()
        while not over.wait(POLL_SECONDS):
            if not signals.stop_requested():
                continue
            for worker in multiprocessing.active_children():
                if worker.pid and worker.pid not in told and _notes_signals(worker.pid):
                    told.add(worker.pid)
                    os.kill(worker.pid, signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _notes_signals(pid: int) -> bool:
    """Whether process `pid` has a handler for SIGTERM."""
    try:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return False
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def note_signals_in_worker() -> None:
    """In a launcher's worker, only note signals: its jobs have processes of their own, which save and end."""
    if multiprocessing.parent_process() and threading.current_thread() is threading.main_thread():
        for number in signals.SIGNALS:
            signal.signal(number, signals.request_stop)


def is_rank_zero() -> bool:
    """Whether this process is the first of its group, which alone writes results; known before the group has met."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0


def in_group() -> bool:
    """Whether torchrun, ``srun`` or submitit started this process as one of a group."""
    return "LOCAL_RANK" in os.environ or in_slurm_job() or slurm_tasks() > 1


def in_slurm_job() -> bool:
    """Whether this process belongs to a job that submitit started on Slurm."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def slurm_tasks() -> int:
    """The number of processes that ``srun`` started together with this one; in a batch script, 1."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


@functools.cache
def follow_parent() -> None:
    """End this process when the one named by `PARENT` ends, even if that was killed; name this one if none is named."""
    parent = None if in_slurm_job() else os.environ.get(PARENT)  # of another machine, and a job outlives it
    if not parent:
        os.environ[PARENT] = str(os.getpid())
        return
    if int(parent) == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(int(parent))
    except ProcessLookupError:
        raise SystemExit(1) from None

    def wait() -> None:
        select.select([descriptor], [], [])  # readable once the process has ended
        if os.getpgrp() == os.getpid():  # of a sweep: the launcher's workers end too, idle ones included
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
