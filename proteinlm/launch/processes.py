"""Groups of processes: how they start, which group this process belongs to, and how they end with their parent."""

import functools
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from proteinlm.errors import InputError
from proteinlm.launch import cores

PARENT = "PROTEINLM_PARENT"
"""Environment variable: the process at whose end its descendants end too."""


def run_group(module: str, words: list[str], size: int, log: Path | None) -> None:
    """Start `size` processes of ``python -m module words`` on this machine and wait for them.

    Their output goes to `log` if there is one. Raises `InputError` if they do not end with status 0.
    """
    command = [sys.executable, "-m", module, *words]
    if size > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m"]
        command = [sys.executable, *torchrun, module, *words]
    # torchrun gives each of several processes one thread, unless this variable is set
    environment = {PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(cores.threads(size)), **os.environ}
    if log is None:
        code = subprocess.run(command, env=environment).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    if code:
        raise InputError(f"{module} {' '.join(words)}: exit code {code}" + (f", see {log}" if log else ""))


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
