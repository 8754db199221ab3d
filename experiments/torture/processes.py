"""Runs that are there to be killed: real processes, forked from this one so that they need not import everything again."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from proteinlm.errors import InputError
from proteinlm.launch import signals
from proteinlm.tasks.base import TaskModule

PATIENCE = 900.0
"""Seconds after which a run counts as hanging."""

Place = tuple[int, int]
"""A micro-batch: its step, and its number in it over all processes."""


class Attempt(NamedTuple):
    """What one start of a run came to."""

    codes: list[int]
    """Exit codes of its processes; negative: the signal."""
    seen: dict[Place, list[int]]
    """Record numbers of the micro-batches that were begun."""
    said: str
    killed: str
    """By what, or nothing if it ended by itself."""
    seconds: float


@dataclass
class Victim:
    """A group of processes that runs `work` and notes in `directory` which records it sees."""

    work: Callable[[], object]
    directory: Path
    processes: int = 1
    file_bytes: int = 0
    """Largest file that it may write; 0: any."""
    pids: list[int] = field(default_factory=list)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sys.stdout.flush()
        sys.stderr.flush()
        self.began = time.monotonic()
        for rank in range(self.processes):
            pid = os.fork()
            if pid == 0:
                self._live(rank, port)
            self.pids.append(pid)

    def _live(self, rank: int, port: int) -> None:
        """Be one of the processes; never returns."""
        code = 1
        try:
            with (self.directory / f"{rank}.log").open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            # What the parent has in their place (a test runner's, say) may lead elsewhere.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
            for number in signals.SIGNALS:  # as a fresh process has them
                signal.signal(number, signal.SIG_DFL)
            signals.install()
            if self.processes > 1:
                names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_PORT")
                values = (rank, rank, self.processes, self.processes, 0, port)
                os.environ |= {name: str(value) for name, value in zip(names, values, strict=True)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "torture"}
            if self.file_bytes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
            note_records(self.directory / f"{rank}.records", rank, self.processes)
            self.work()
            code = 0
        except InputError as error:
            code = 2
            with suppress(OSError):
                print(f"error: {error}", file=sys.stderr)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            if isinstance(error, signals.Stopped) and rank == 0:
                print(error, file=sys.stderr)
        except BaseException:
            with suppress(OSError):  # its log may be on a full disk
                traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def alive(self) -> bool:
        return any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for pid in self.pids)

    def wait(self, seconds: float) -> bool:
        """Whether all have ended within so many seconds."""
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def kill(self, number: int, of: list[int]) -> None:
        """Send a signal to some of the processes that are still there; the rest must follow, or is made to."""
        for rank in of:
            os.kill(self.pids[rank], number)
        if not self.wait(60.0):  # what a launcher does to the others of a group
            for pid in self.pids:
                os.kill(pid, signal.SIGKILL)

    def end(self, killed: str) -> Attempt:
        """Collect what is left of it."""
        if not self.wait(PATIENCE):
            for pid in self.pids:
                os.kill(pid, signal.SIGKILL)
            killed = killed or "hang"
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        seen = {}
        for file in self.directory.glob("*.records"):
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # a killed process may leave half of one
                    step, number, records = json.loads(line)
                    seen[step, number] = records
        said = "".join(file.read_text(errors="replace") for file in sorted(self.directory.glob("*.log")))
        return Attempt(codes, seen, said, killed, time.monotonic() - self.began)


def note_records(file: Path, rank: int, processes: int) -> None:
    """From now on, write down the records of every micro-batch that this process begins to learn from."""
    training_step = TaskModule.training_step
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noting(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        number = batch_idx % (self.micro_batches // processes) * processes + rank
        line = json.dumps([self.trainer.global_step, number, batch.records.tolist()])
        os.write(descriptor, line.encode() + b"\n")
        return training_step(self, batch, batch_idx)

    TaskModule.training_step = noting


def flip_a_bit(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size))


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[bool]:
    """A file system of its own at `place`, if one may be mounted here."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def fill(place: Path) -> Path:
    """Take all that is left of a file system; the file that does."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return ballast
