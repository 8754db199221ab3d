"""The physical cores of this machine, and how many CPU threads each process takes of them."""

import os
from pathlib import Path


def physical_cores() -> int:
    """Count the cores that this process may use; hardware threads of one core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return len(cores)


def threads(processes: int) -> int:
    """The CPU threads for each of `processes` on this machine: OMP_NUM_THREADS if it is set, else a share of the cores.

    Slurm gives each task SLURM_CPUS_PER_TASK CPUs and may or may not bind the task to them. That number is for one task,
    so it is not divided again. All other processes share the cores that this one may run on.
    """
    if chosen := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(chosen.split(",")[0]))
    if allotted := os.environ.get("SLURM_CPUS_PER_TASK", ""):
        return max(1, min(int(allotted), physical_cores()))
    return max(1, physical_cores() // processes)
