"""What tracking costs: the same row of a sweep with and without it, in turns: ``python -m experiments.bench_tracking``.

Whole processes are timed, so that loading, starting and ending wandb counts too, for all seven stages. Further words are
Hydra overrides of the row.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from proteinlm import launch
from proteinlm.errors import InputError

BACKENDS = ("none", "csv", "wandb")
ROW = "hidden-1024-layer-12-head-16"


class Took(NamedTuple):
    """Seconds of one process."""

    wall: float
    processor: float
    """Of all its threads and of what it started."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_tracking", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--backends", default=",".join(BACKENDS), help="what to compare; the first is what the others cost"
    )
    options, overrides = parser.parse_known_args(arguments)
    if options.repeats < 1:
        raise InputError(f"--repeats={options.repeats} is less than 1")
    backends = options.backends.split(",")
    if unknown := set(backends) - set(BACKENDS):
        raise InputError(f"--backends: {', '.join(sorted(unknown))} is not one of {', '.join(BACKENDS)}")
    took = measured(options.repeats, backends, overrides)
    for backend in backends:
        wall, processor = (statistics.median(each) for each in zip(*took[backend], strict=True))
        more = share(took[backend], took[backends[0]])
        print(f"tracking={backend:<6} {wall:8.2f} s wall, {processor:8.2f} s of processor, {100 * more:+.1f} % wall")
    return 0


def measured(repeats: int, backends: list[str], overrides: list[str]) -> dict[str, list[Took]]:
    """Seconds by backend, each of `repeats` rounds with all backends in turn."""
    took: dict[str, list[Took]] = {backend: [] for backend in backends}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            for backend in backends:
                took[backend].append(_once(backend, overrides, f"{folder}/{number}/{backend}"))
                wall, processor = took[backend][-1]
                print(f"{backend}: {wall:.1f} s, of processor {processor:.1f} s", file=sys.stderr, flush=True)
    return took


def share(ours: list[Took], others: list[Took]) -> float:
    """Wall time more than the others', as a share: the median over rounds."""
    return statistics.median(one.wall / other.wall - 1 for one, other in zip(ours, others, strict=True))


def _once(backend: str, overrides: list[str], output: str) -> Took:
    command = [sys.executable, "-m", "experiments.row", f"experiment/table7={ROW}", "profile=laptop", "control=''"]
    command += [f"tracking={backend}", f"output={output}", "train.threads=1", *overrides]
    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, spent)


if __name__ == "__main__":
    launch.command(main)
