"""What tracking costs: the same pretraining with and without it, in turns: ``python -m experiments.bench_tracking``.

Whole processes are timed, so that starting and ending wandb counts too.
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


class Took(NamedTuple):
    """Seconds of one process."""

    wall: float
    processor: float
    """Of all its threads and of what it started."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_tracking", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=300_000, help="of each pretraining")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        raise InputError(f"--repeats={options.repeats} is less than 1")
    took = measured(options.repeats, options.tokens)
    for backend in BACKENDS:
        wall, processor = (statistics.median(each) for each in zip(*took[backend], strict=True))
        more = share(took, backend)
        print(f"tracking={backend:<6} {wall:8.2f} s wall, {processor:8.2f} s of processor, {100 * more:+.1f} % wall")
    return 0


def measured(repeats: int, tokens: int) -> dict[str, list[Took]]:
    """Seconds by backend, each of `repeats` rounds with all backends in turn."""
    took: dict[str, list[Took]] = {backend: [] for backend in BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            for backend in BACKENDS:
                took[backend].append(_once(backend, tokens, f"{folder}/{number}/{backend}"))
    return took


def share(took: dict[str, list[Took]], backend: str) -> float:
    """Wall time more than without tracking, as a share: the median over rounds."""
    pairs = zip(took[backend], took["none"], strict=True)
    return statistics.median(ours.wall / theirs.wall - 1 for ours, theirs in pairs)


def _once(backend: str, tokens: int, output: str) -> Took:
    command = [sys.executable, "-m", "experiments.pretrain", "model=tiny", f"tracking={backend}", f"output={output}"]
    command += [f"train.tokens={tokens}", "train.step_tokens=2048", "train.micro_batch_tokens=2048", "train.threads=1"]
    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, spent)


if __name__ == "__main__":
    launch.command(main)
