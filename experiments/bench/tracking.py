"""What tracking costs: the same row of a sweep with and without it: ``python -m experiments.bench tracking``.

Whole processes are timed, so that loading, starting and ending wandb counts too, for all seven stages. Those of a round
start together, a core each, so that whatever slows the machine slows all of them. Further words are Hydra overrides of the
row.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import NamedTuple

from proteinlm.errors import InputError
from proteinlm.launch import cores

BACKENDS = ("none", "csv", "wandb")
ROW = "hidden-2048-layer-12-head-16"
"""The one of the ten whose time is nearest their mean."""


class Took(NamedTuple):
    """Seconds of one process."""

    wall: float
    processor: float
    """Of all its threads and of what it started."""


def compare(repeats: int, backends: list[str], overrides: list[str]) -> None:
    """Print what each of `backends` costs a row, beside the first of them."""
    if repeats < 1:
        raise InputError(f"--repeats={repeats} is less than 1")
    if unknown := set(backends) - set(BACKENDS):
        raise InputError(f"--backends: {', '.join(sorted(unknown))} is not one of {', '.join(BACKENDS)}")
    took = measure(repeats, backends, overrides)
    for backend in backends:
        wall, processor = (statistics.median(each) for each in zip(*took[backend], strict=True))
        more = {of: 100 * share(took[backend], took[backends[0]], attrgetter(of)) for of in Took._fields}
        print(
            f"tracking={backend:<6} {wall:8.2f} s wall ({more['wall']:+.1f} %), "
            f"{processor:8.2f} s of processor ({more['processor']:+.1f} %)"
        )


def measure(repeats: int, backends: list[str], overrides: list[str]) -> dict[str, list[Took]]:
    """Seconds by backend, each of `repeats` rounds with all backends at once, or as many as there are cores."""
    took: dict[str, list[Took]] = {backend: [] for backend in backends}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores.physical_cores()) as pool:
        for number in range(repeats):
            outputs = {backend: f"{folder}/{number}/{backend}" for backend in backends[:: (-1) ** number]}
            running = {backend: pool.submit(_once, backend, overrides, outputs[backend]) for backend in outputs}
            for backend, future in running.items():
                took[backend].append(future.result())
                wall, processor = took[backend][-1]
                print(f"{backend}: {wall:.1f} s, of processor {processor:.1f} s", file=sys.stderr, flush=True)
    return took


def share(ours: list[Took], others: list[Took], of: Callable[[Took], float]) -> float:
    """What `ours` took more than the others, as a share: the median over rounds."""
    return statistics.median(of(one) / of(other) - 1 for one, other in zip(ours, others, strict=True))


def _once(backend: str, overrides: list[str], output: str) -> Took:
    command = [sys.executable, "-m", "experiments.row", f"experiment/table7={ROW}", "profile=laptop", "control=''"]
    command += [f"tracking={backend}", f"output={output}", "train.threads=1", *overrides]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)  # what it used, and all that it waited for
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Took(wall, used.ru_utime + used.ru_stime)
