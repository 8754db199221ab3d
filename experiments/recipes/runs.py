"""The pretrainings of a comparison: every recipe at every shape, rate and seed, each a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from proteinlm.errors import InputError
from proteinlm.launch import cores, processes, words
from proteinlm.records import results
from proteinlm.records.results import Result

PAPER = ("model.dropout=0.1",)
MODERN = ("recipe=modern",)
ARMS: dict[str, tuple[str, ...]] = {
    "paper": PAPER,
    "paper-rotary": (*PAPER, "model.positions=rotary"),
    "paper-gated": (*PAPER, "model.feed_forward=gated"),
    "paper-muon": (*PAPER, "optim.matrices=muon"),
    "paper-no-dropout": ("model.dropout=0",),
    "modern": MODERN,
    "modern-learned": (*MODERN, "model.positions=learned"),
    "modern-gelu": (*MODERN, "model.feed_forward=gelu"),
    "modern-adamw": (*MODERN, "optim.matrices=adamw"),
    "modern-dropout": (*MODERN, "model.dropout=0.1"),
}
"""The two recipes, the paper's with one ingredient of the other, and the other without one."""
COMMON = ("tracking=csv", "optim.min_learning_rate=0", "optim.warmup_fraction=0.05")


@dataclass(frozen=True, order=True)
class Run:
    """One pretraining."""

    arm: str
    shape: tuple[int, int, int]
    """Hidden size, layers, heads."""
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}_{'x'.join(map(str, self.shape))}_{self.rate:g}_{self.seed}"

    @staticmethod
    def from_name(name: str) -> "Run":
        try:
            arm, shape, rate, seed = name.split("_")
            hidden, layers, heads = map(int, shape.split("x"))
            return Run(arm, (hidden, layers, heads), float(rate), int(seed))
        except ValueError:
            raise InputError(f"{name}: not the name of a run of experiments.recipes") from None

    @property
    def overrides(self) -> list[str]:
        hidden, layers, heads = self.shape
        shape = (f"model.hidden_size={hidden}", f"model.num_layers={layers}", f"model.num_heads={heads}")
        return [*shape, *COMMON, *ARMS[self.arm], f"optim.learning_rate={self.rate:g}", f"seed={self.seed}"]


def plan_runs(
    arms: Iterable[str], shapes: Iterable[tuple[int, int, int]], rates: Iterable[float], seeds: int
) -> list[Run]:
    """Every combination, seed after seed, so that an interrupted comparison is a whole one with fewer seeds."""
    of_seed = [Run(arm, shape, rate, 0) for arm, shape, rate in product(arms, shapes, rates)]
    return [Run(run.arm, run.shape, run.rate, seed) for seed in range(seeds) for run in of_seed]


def done(directory: Path) -> dict[Run, Result]:
    """The finished runs in `directory`."""
    return {Run.from_name(result.row): result for result in results.load_all(directory)}


def carry_out(runs: list[Run], directory: Path, overrides: list[str], jobs: int) -> None:
    """Pretrain all, `jobs` at a time; what is finished is skipped, what was interrupted goes on."""
    threads = str(max(1, cores.physical_cores() // jobs))
    environment = {processes.PARENT: str(os.getpid()), "OMP_NUM_THREADS": threads, **os.environ}

    def pretrain(run: Run) -> None:
        command = [sys.executable, "-m", "proteinlm", "pretrain", f"name={run.name}", *run.overrides, *overrides]
        command += [f"output={words.quote(str(directory.parent))}", f"group={words.quote(directory.name)}"]
        log = directory / run.name / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
        if code:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise InputError(f"{run.name}: exit code {code}, {last} (see {log})")
        (result,) = results.load_all(log.parent)
        score = result.score("masked_language_model", "valid", "perplexity")
        print(f"{run.name}  perplexity {score.value if score else float('nan'):.3f}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(pretrain, run) for run in runs]
        try:
            for future in pending:
                future.result()
        except BaseException:
            for future in pending:
                future.cancel()
            raise
