"""All rows of the table, side by side, then the table itself: what ``make reproduce-table7`` runs.

The work is done by ``python -m experiments.row -m``, which can be used without this front. Here it is started, watched and
judged. Imports no torch.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments import table7
from experiments.published import TABLE7
from proteinlm import launch, results
from proteinlm.errors import InputError
from proteinlm.files import owned

STAGES = ("pretrain",)
PROGRESS = "progress.json"


def main(arguments: list[str] | None = None) -> int:
    options, overrides = _parse(arguments)
    group = options.group or f"table7-{options.profile}-{Path(options.data).name}"
    directory = Path(options.output) / group
    with owned(directory, "a sweep"):
        command = [
            *(sys.executable, "-m", "experiments.row", "-m"),
            f"experiment/table7={','.join(largest_first(list(TABLE7)))}",
            *(
                f"profile={options.profile}",
                f"output={options.output}",
                f"group={group}",
                f"launcher={options.launcher}",
            ),
            *_data(options.data),
            *([f"hydra.launcher.n_jobs={options.jobs}"] if options.launcher == "local" else []),
            *overrides,
        ]
        environment = {**os.environ, launch.PARENT: str(os.getpid())}
        if options.launcher == "local":
            environment["OMP_NUM_THREADS"] = str(max(1, launch.physical_cores() // options.jobs))
        with (directory / "sweep.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            watch(directory, process)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            return 130
        failed = [row for row in TABLE7 if not _finished(directory, row)]
        for row in failed:
            print(f"failed: {row}: {_last_line(directory / row / 'log.txt', directory / 'sweep.log')}", file=sys.stderr)
        return table7.main([str(directory), *(["--partial"] if failed else [])]) or int(bool(failed))


def largest_first(rows: list[str]) -> list[str]:
    """The order that ends soonest when rows run side by side."""

    def cost(row: str) -> int:
        hidden, layers = map(int, re.findall(r"\d+", row)[:2])
        return hidden**2 * layers

    return sorted(rows, key=cost, reverse=True)


def watch(directory: Path, process: subprocess.Popen[bytes]) -> None:
    """Show how far the rows are until `process` ends: a live table, or without a terminal one line per finished stage."""
    console = Console(stderr=True)
    told = {row for row in TABLE7 if _finished(directory, row)}
    if told:
        console.print(f"{len(told)} of {len(TABLE7)} rows are already there")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            ended = process.poll() is not None
            for row in largest_first(list(TABLE7)):
                if row not in told and _finished(directory, row):
                    told.add(row)
                    result = results.load(directory / row / STAGES[-1] / results.RESULT)
                    scores = ", ".join(f"{s.split} {s.metric} {s.value:.2f}" for s in result.scores)
                    line = f"[{len(told)}/{len(TABLE7)}] {row}: {scores}, {result.seconds:.0f} s"
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
            if console.is_terminal:
                live.update(_view(directory, told), refresh=True)
            if ended:
                return
            time.sleep(0.5)


def _view(directory: Path, finished: set[str]) -> Table:
    table = Table("running", "step", "loss", "perplexity", "left", box=None)
    for row in TABLE7:
        for stage in STAGES:
            seen = _progress(directory / row / stage / PROGRESS)
            if row not in finished and seen and seen["step"] < seen["steps"]:
                figures = (f"{seen['train/loss']:.3f}", f"{seen['train/perplexity']:.2f}", f"{seen['left']:.0f} s")
                table.add_row(row, f"{seen['step']}/{seen['steps']}", *figures)
    return table


def _progress(file: Path) -> dict[str, float] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def _finished(directory: Path, row: str) -> bool:
    return all((directory / row / stage / results.RESULT).exists() for stage in STAGES)


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
    return ["data=files", f"data.root={Path(data).resolve()}"]


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep", description="Run all rows, then print the table."
    )
    parser.add_argument("--profile", default="laptop", help="smoke, laptop, single_gpu or paper")
    parser.add_argument("--data", default="synthetic", help="synthetic, or a directory of real data")
    parser.add_argument("--launcher", default="local", help="local or slurm")
    parser.add_argument("--output", default="runs", help="where results go")
    parser.add_argument("--group", default="", help="name of the sweep; by default from profile and data")
    parser.add_argument("--jobs", type=int, default=launch.physical_cores(), help="rows side by side; default: cores")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        launch.fail(str(error))
