"""Measurements, always side by side in one run because a machine's speed drifts: ``python -m experiments.bench data``.

Prints a table and writes the same figures as ``runs/bench/<what>.json`` and ``.md``.
"""

import argparse
import json
import lzma
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from proteinlm import launch, results
from proteinlm.errors import InputError
from proteinlm.files import write_text

PFAM_PROTEINS = 32_593_668
"""Training sequences of TAPE's Pfam."""


class Figure(NamedTuple):
    """One measured number."""

    what: str
    value: float
    unit: str
    target: str
    """What it should be; empty where it only explains another."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description="Measure the suite.")
    parser.add_argument("what", choices=("data",))
    parser.add_argument("--fasta", type=Path, help="a .fasta.xz to build from; by default one is made up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    figures = data(options.fasta, options.repeats)
    report(options.what, figures, options.output)
    return 0


def data(fasta: Path | None, repeats: int) -> list[Figure]:
    """Building, opening, loading and planning."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "pretrain").mkdir(parents=True)
        source = root / "pretrain/pretrain_train.fasta.xz"
        if fasta:
            source.symlink_to(fasta.resolve())
        else:
            made_up(source)
        built = building(root, source, repeats)
        store = Path(folder) / "store"
        rates = [figure for budget in (16_384, 65_536) for figure in loading(store, budget, repeats)]
        return [*built, *rates, *planning()]


def building(root: Path, source: Path, repeats: int) -> list[Figure]:
    """Time of a build beside that of decompressing its source, in turns."""
    from proteinlm.data import building, store

    target = root.parent / "store"
    decompressing, converting = [], []
    for _ in range(repeats):
        with open("/dev/null", "wb") as nowhere:
            decompressing.append(
                timed(lambda out=nowhere: subprocess.run(["xz", "-dc", source], stdout=out, check=True))
            )
        shutil.rmtree(target, ignore_errors=True)
        converting.append(timed(lambda: building.build(root, target)))
    opening = statistics.median(timed(lambda: store.open(target)) for _ in range(20))
    ratio = statistics.median(ours / theirs for ours, theirs in zip(converting, decompressing, strict=True))
    return [
        Figure("xz -dc of the source", statistics.median(decompressing), "s", ""),
        Figure("building the store", statistics.median(converting), "s", ""),
        Figure("building / xz -dc", ratio, "", "at most 2.5"),
        Figure("opening the store", 1000 * opening, "ms", "milliseconds"),
    ]


def loading(directory: Path, budget: int, repeats: int) -> list[Figure]:
    """Masked, packed micro-batches of `budget` tokens, from one worker."""
    from proteinlm.data import store
    from proteinlm.data.loader import MaskedProteins, ShareOfSteps, training_loader
    from proteinlm.data.packing import Schedule

    sequences = store.open(directory).sequences("pretrain", "train")
    longest, steps = 2175, 5_000_000 // budget
    schedule = Schedule(sequences.lengths(), longest=longest, budget=budget, per_step=1, seed=0, mask_percent=15)
    proteins = MaskedProteins(sequences, longest=longest, mask_percent=15, seed=0)
    rates = []
    for repeat in range(repeats):
        share = ShareOfSteps(schedule, steps * repeat, steps * (repeat + 1), 0, 1)
        batches = iter(training_loader(proteins, share, workers=1, pin_memory=False))
        next(batches)  # the worker is up
        begin, residues = time.perf_counter(), 0
        for batch in batches:
            residues += batch.residues
        rates.append(residues / (time.perf_counter() - begin))
    return [
        Figure(
            f"one loader worker, {budget:,} tokens a batch",
            statistics.median(rates) / 1e6,
            "M residues/s",
            "at least 3",
        )
    ]


def planning() -> list[Figure]:
    """An epoch of Pfam's size, in a process of its own so that its memory can be read off."""
    code = (
        "import resource, time, numpy as np\n"
        "from proteinlm.data.packing import Schedule\n"
        f"lengths = np.clip(np.random.default_rng(0).lognormal(4.95, 0.62, {PFAM_PROTEINS}), 11, 2175).astype(np.int32)\n"
        "begin = time.perf_counter()\n"
        "schedule = Schedule(lengths, longest=2175, budget=65_536, per_step=4, seed=0, mask_percent=15)\n"
        "pieces = schedule.epoch(0)\n"
        "print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(pieces))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, megabytes, pieces = map(float, printed.split())
    return [
        Figure(f"planning an epoch of {PFAM_PROTEINS:,} proteins", seconds, "s", "under 10"),
        Figure("peak resident memory of that process", megabytes, "MB", "under 1000"),
        Figure("micro-batches of 65,536 tokens in it", pieces, "", ""),
    ]


def made_up(path: Path, proteins: int = 100_000) -> None:
    """Random sequences with lengths like Pfam's."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    with lzma.open(path, "wb", preset=1) as file:
        for number, length in enumerate(np.clip(generator.lognormal(4.95, 0.62, proteins), 11, 2175).astype(int)):
            file.write(b">%d\n%s\n" % (number, letters[generator.integers(0, 20, length)].tobytes()))


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def report(what: str, figures: list[Figure], output: Path) -> None:
    """Print the figures, and write them with the versions and the commit they belong to."""
    table = Table("what", "measured", "", "wanted", title=f"bench {what}", box=None)
    lines = ["| what | measured | wanted |", "|:--|--:|:--|"]
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:,.2f}", figure.unit, figure.target)
        lines.append(f"| {figure.what} | {figure.value:,.2f} {figure.unit} | {figure.target} |")
    Console(width=110).print(table)
    output.mkdir(parents=True, exist_ok=True)
    record = {"figures": [figure._asdict() for figure in figures], **asdict(results.provenance())}
    write_text(output / f"{what}.json", json.dumps(record, indent=2) + "\n")
    write_text(output / f"{what}.md", "\n".join(lines) + "\n")
    print(f"written: {output}/{what}.json, .md")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        launch.fail(str(error))
