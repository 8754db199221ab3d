"""All rows of the table, side by side, then the table itself: what ``make reproduce-table7`` runs.

The work is done by ``python -m experiments.row -m``, which can be used without this front. Here it is started, watched and
judged. Imports no torch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments import given_weights
from experiments.given_weights import GivenRow
from experiments.table7 import __main__ as table7
from experiments.table7 import universes as over_universes
from experiments.table7.published import BASELINES, COLUMNS, TABLE7
from experiments.table7.rows import ALL, GIVEN, PRETRAIN, SCRATCH, STAGES, names_of_controls, shape_of
from proteinlm.config import BaselineConfig
from proteinlm.errors import InputError
from proteinlm.launch import cores, entry, processes, signals, words
from proteinlm.records import results
from proteinlm.records.results import Result
from proteinlm.records.run_directory import PROGRESS
from proteinlm.storage.atomic import own_directory


class Stage(NamedTuple):
    """One stage of one row: a directory that holds a result in the end."""

    row: str
    name: str


def main(arguments: list[str] | None = None) -> int:
    options, overrides = _parse(arguments)
    group = options.group or f"table7-{options.profile}-{Path(options.data).name}"
    if options.data != "synthetic":
        return sweep(options, group, overrides)
    universes = range(options.universe, options.universe + options.universes)
    groups = [f"{group}-universe-{number}" if number else group for number in universes]
    for number, name in zip(universes, groups, strict=True):
        if status := sweep(options, name, [*([f"data.seed={number}", f"seed={number}"] if number else []), *overrides]):
            return status
    if len(groups) == 1:
        return 0
    places = [str(Path(options.output) / name) for name in groups]
    return over_universes.main([*places, "--output", f"{places[0]}-{len(places)}-universes"])


def sweep(options: argparse.Namespace, group: str, overrides: list[str]) -> int:
    """Run all rows in one universe, and print their table."""
    directory = Path(options.output) / group
    first, given, msa_transformer = read_rows(options.rows, Path(options.output))
    row_words = [
        f"profile={options.profile}",
        f"output={words.quote(options.output)}",
        f"group={words.quote(group)}",
        *([] if options.control is None else [f"control={words.quote(options.control)}"]),
        f"launcher={options.launcher}",
        *_data(options.data),
        *([f"hydra.launcher.n_jobs={options.jobs}"] if options.launcher == "local" else []),
        *overrides,
    ]
    # what is wrong in one row is wrong in all, and better said before they start
    config = entry.compose("row", row_words)
    choices = [row_overrides(first)] if first else []
    stages = plan_stages(config.control, ROWS[first]) if first else []
    for row in given:
        given_weights.prepare(row)
        choices.append(row.overrides)
        stages += [Stage(row.name, name) for name in STAGES if name != PRETRAIN]
        entry.compose("row", [*row.overrides, *row_words])
    with own_directory(directory, "a sweep"):
        if options.launcher == "slurm" and (waiting := slurm_jobs(group)):
            raise InputError(
                f"{group}: {waiting} jobs of it are in Slurm's queue; wait for them, or end them with scancel --name={group}"
            )
        environment = {**os.environ, processes.PARENT: str(os.getpid())}
        if options.launcher == "local":
            environment["OMP_NUM_THREADS"] = str(max(1, cores.physical_cores() // options.jobs))
        failed = 0
        watch = Watch(directory, stages, options.jobs)
        watch.say_what_there_is()
        for choice in choices:
            if signals.stop_requested():
                break
            command = [sys.executable, "-m", "experiments.row", "-m", *choice, *row_words]
            with (directory / "sweep.log").open("ab") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            with suppress(signals.Stopped), signals.deferred():
                watch.until_end_of(process)
            failed = failed or process.returncode
        if number := signals.stop_requested():
            jobs = f"; Slurm's jobs go on: scancel --name={group} ends them" if options.launcher == "slurm" else ""
            print(f"stopped; the same command goes on from here{jobs}", file=sys.stderr)
            return 128 + number
        missing = [stage for stage in stages if not (directory / stage.row / stage.name / results.RESULT).exists()]
        for row in dict.fromkeys(stage.row.removeprefix(SCRATCH) for stage in missing):
            names = ", ".join(stage.name for stage in missing if stage.row.removeprefix(SCRATCH) == row)
            last = _last_line(directory / row / "log.txt", directory / "sweep.log")
            end = "stopped" if last.startswith("stopped") else "failed"
            print(f"{end}: {row}: no result of {names}: {last}", file=sys.stderr)
        if failed and not missing:  # what is there belongs to another config than what was asked for
            print(f"failed: {_last_line(directory / 'sweep.log')}", file=sys.stderr)
            return 1
        status = table7.main([str(directory), *(["--partial"] if missing or not first else [])]) or int(bool(missing))
        if status or not (msa_transformer or first == "all"):
            return status
        return score_alignments(directory, options.profile, msa_transformer)


def score_alignments(directory: Path, profile: str, msa_transformer: Path | None = None) -> int:
    """Print what alignments say of the contacts of test chains that have one, in a process that may import torch."""
    few = ["--chains", "2", "--steps", "2"] if profile == "smoke" else []  # which measures nothing
    given = ["--msa-transformer", str(msa_transformer)] if msa_transformer else []
    command = [sys.executable, "-m", "experiments.alignments", "--sweep", str(directory), *few, *given]
    with (directory / "sweep.log").open("ab") as log:
        print("scoring contacts by alignments", file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log.write(done.stdout.encode())
    begin = done.stdout.find("\nContacts on the test chains")
    if done.returncode:  # 2: data without alignments, which have a whole table
        print(f"no contacts by alignments: {_last_line(directory / 'sweep.log')}", file=sys.stderr)
        return 0 if done.returncode == 2 else 1
    print(done.stdout[begin:].rstrip())
    return 0


def slurm_jobs(name: str) -> int:
    """Jobs of this user by that name that have not ended."""
    command = ["squeue", "--noheader", "--me", f"--name={name}"]
    try:
        return len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"squeue does not answer: {error}") from None


ROWS = {"ten": [*TABLE7], "all": [*TABLE7, *BASELINES]}
"""The choices of ``--rows``: the paper's, or TAPE's backbones as well."""


class Choice(NamedTuple):
    """What ``--rows`` asks for."""

    first: str
    """The word of `ROWS`, empty if there is none."""
    given: list[GivenRow]
    """The rows from weights of others."""
    msa_transformer: Path | None
    """The weights that read alignments of test chains."""


def read_rows(choice: str, output: Path) -> Choice:
    """The parts of a choice as ``all,hf:DIR``."""
    parts = choice.split(",")
    first = [part for part in parts if part in ROWS]
    readers = [part for part in parts if part.startswith(given_weights.MSA)]
    rows = [given_weights.read_word(part, output) for part in parts if part not in (*first, *readers)]
    names = [row.name for row in rows]
    if max(len(first), len(readers)) > 1 or len(set(names)) < len(names):
        raise InputError(f"--rows {choice} names rows twice")
    weights = [given_weights.directory_in(part, part.removeprefix(given_weights.MSA)) for part in readers]
    return Choice("".join(first), rows, weights[0] if weights else None)


def row_overrides(rows: str) -> list[str]:
    """The choice as `experiments.row` takes it."""
    if rows == "ten":
        return [f"experiment/table7={','.join(largest_first(ROWS[rows]))}"]
    folders = [f"{'table7' if row in TABLE7 else 'baselines'}/{row}" for row in largest_first(ROWS[rows])]
    return ["experiment/table7=[]", f"experiment={','.join(folders)}"]


def plan_stages(control: str, rows: list[str]) -> list[Stage]:
    """All stages of the sweep, those of the longest rows first."""
    stages = [Stage(row, name) for row in largest_first(rows) for name in STAGES]
    controls = names_of_controls(control, largest_first(rows))
    return stages + [Stage(SCRATCH + row, name) for row in controls for name in STAGES if name != PRETRAIN]


def largest_first(rows: list[str]) -> list[str]:
    """The order that ends soonest when rows run side by side."""
    return sorted(rows, key=work, reverse=True)


def work(row: str) -> float:
    """How long a step of a row takes, roughly: matrix products, and what grows with the width only."""
    shape = shape_of("unirep" if GIVEN in row else row.removeprefix(SCRATCH))
    if isinstance(shape, BaselineConfig):
        return shape.products / 12 + 1024 * shape.hidden_size * shape.num_layers
    return shape.num_layers * (shape.hidden_size**2 + 1024 * shape.hidden_size)


@dataclass
class Watch:
    """What there is to see of a sweep: a live view, or without a terminal one line per finished stage."""

    directory: Path
    stages: list[Stage]
    jobs: int

    def say_what_there_is(self) -> None:
        """One line, since without a terminal the first stage's own comes only when that has ended."""
        rows, there = {stage.row for stage in self.stages}, len(self._finished({}))
        said = f"{self.directory}: {len(self.stages)} stages of {len(rows)} rows"
        print(f"{said}, {there} already there" if there else said, file=sys.stderr)

    def until_end_of(self, process: subprocess.Popen[bytes]) -> None:
        console = Console(stderr=True, highlight=False)
        finished = self._finished({})
        began = time.monotonic()
        with Live(console=console, auto_refresh=False, transient=True) as live:
            ended = passed_on = False
            while not ended:
                ended = process.poll() is not None
                if signals.stop_requested() and not passed_on:
                    passed_on = True
                    process.terminate()
                    console.print("stopping: what runs finishes its step and saves")
                before, finished = finished, self._finished(finished)
                for number, stage in enumerate(finished.keys() - before.keys(), len(before) + 1):
                    told = f"[{number}/{len(self.stages)}] {stage.row} {_told(finished[stage])}"
                    console.print(told, markup=False, soft_wrap=True)
                if console.is_terminal:
                    live.update(self._view(finished, time.monotonic() - began), refresh=True)
                time.sleep(0 if ended else 0.5)

    def _finished(self, known: dict[Stage, Result]) -> dict[Stage, Result]:
        files = {stage: self.directory / stage.row / stage.name / results.RESULT for stage in self.stages}
        new = {stage: results.load(file) for stage, file in files.items() if stage not in known and file.exists()}
        return known | new

    def _view(self, finished: dict[Stage, Result], elapsed: float) -> Group:
        table = Table("running", "stage", "step", "loss", "score", "left", box=None)
        for stage in self.stages:
            seen = None if stage in finished else _progress(self.directory / stage.row / stage.name / PROGRESS)
            if seen:
                loss = f"{seen['train/loss']:.3f}" if "train/loss" in seen else ""
                table.add_row(
                    *stage, f"{seen['step']}/{seen['steps']}", loss, _latest_score(seen), f"{seen['left']:.0f} s"
                )
        left = time_left([stage for stage in self.stages if stage not in finished], finished, self.jobs)
        head = f"{len(finished)} of {len(self.stages)} stages, {elapsed / 60:.0f} min"
        return Group(Text(head + (f", about {left / 60:.0f} min left" if left is not None else "")), table)


def time_left(remaining: list[Stage], finished: dict[Stage, Result], jobs: int) -> float | None:
    """Seconds, from what the finished stages took for their rows' `work`; None while none has finished."""
    if not finished:
        return None

    def rate(name: str | None) -> float | None:
        chosen = [(stage, result) for stage, result in finished.items() if name in (None, stage.name)]
        return (
            sum(result.seconds for _, result in chosen) / sum(work(stage.row) for stage, _ in chosen)
            if chosen
            else None
        )

    overall = rate(None) or 0.0
    return sum((rate(stage.name) or overall) * work(stage.row) for stage in remaining) / jobs


def _told(result: Result) -> str:
    """A finished stage in a line: its scores for the table."""
    wanted = {(column.split, column.metric) for column in COLUMNS if column.stage == result.stage}
    scores = [s for s in result.scores if not wanted or (s.split, s.metric) in wanted]
    said = ", ".join(f"{s.split} {s.metric} {s.text()}" for s in scores)
    return f"{result.stage}: {said}, {result.seconds:.0f} s"


def _latest_score(seen: dict[str, float]) -> str:
    scores = [(name, value) for name, value in seen.items() if name.startswith("valid/")]
    if not scores:
        return f"perplexity {seen['train/perplexity']:.2f}" if "train/perplexity" in seen else ""
    name, value = scores[0]
    return f"{name} undefined" if isnan(value) else f"{name} {value:.3f}"


def _progress(file: Path) -> dict[str, float] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def _last_line(*logs: Path) -> str:
    for log in logs:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        if lines:
            return lines[-1]
    return "no log"


def _data(data: str) -> list[str]:
    if data == "synthetic":
        return ["data=synthetic"]
    if not Path(data).is_dir():
        raise InputError(f"DATA={data} is neither `synthetic` nor a directory")
    return ["data=files", f"data.root={words.quote(str(Path(data).resolve()))}"]


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep", description="Run all rows, then print the table."
    )
    parser.add_argument("--profile", default="laptop", help="smoke, laptop, single_gpu or paper")
    parser.add_argument(
        "--rows",
        default="ten",
        help="ten, or all: TAPE's backbones below them; after a comma weights of others: unirep-published, hf:DIR, "
        "msa-transformer:DIR",
    )
    parser.add_argument("--data", default="synthetic", help="synthetic, or a directory of real data")
    parser.add_argument("--universe", type=int, default=0, help="seed of the synthetic universe and of training")
    parser.add_argument("--universes", type=int, default=1, help="so many from that one on, and a table over them")
    parser.add_argument("--launcher", default="local", help="local or slurm")
    parser.add_argument("--output", default="runs", help="where results go")
    parser.add_argument("--group", default="", help="name of the sweep; by default from profile and data")
    parser.add_argument("--jobs", type=int, default=cores.physical_cores(), help="rows side by side; default: cores")
    parser.add_argument(
        "--control",
        help="row that is also fine-tuned from random weights, or all of the ten; '' for none; else as the config has it",
    )
    options, overrides = parser.parse_known_args(arguments)
    read_rows(options.rows, Path(options.output))
    if options.universe < 0 or options.universes < 1:
        raise InputError(
            f"--universe {options.universe} must not be negative, --universes {options.universes} at least 1"
        )
    if options.data != "synthetic" and (options.universe, options.universes) != (0, 1):
        raise InputError(f"--universe and --universes are of the synthetic data, not of {options.data}")
    if options.control and options.control not in (ALL, *TABLE7):
        raise InputError(f"--control {options.control} is neither a row of the table nor {ALL}")
    return options, overrides


if __name__ == "__main__":
    signals.install()
    entry.command(main)
