"""Building, opening, loading and planning, and what they are held against."""

import lzma
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.bench.figures import Figure, seconds_of
from experiments.bench.workload import LETTERS, lengths_like_pfam

PFAM_PROTEINS = 32_593_668
"""Training sequences of TAPE's Pfam."""


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
    from proteinlm.data import store
    from proteinlm.data.store import building

    target = root.parent / "store"
    decompressing, converting = [], []
    for _ in range(repeats):
        with open("/dev/null", "wb") as nowhere:
            decompressing.append(
                seconds_of(lambda out=nowhere: subprocess.run(["xz", "-dc", source], stdout=out, check=True))
            )
        shutil.rmtree(target, ignore_errors=True)
        converting.append(seconds_of(lambda: building.build(root, target)))
    opening = statistics.median(seconds_of(lambda: store.open(target)) for _ in range(20))
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
    from proteinlm.data.batches.language_model import MaskedProteins, ShareOfSteps, training_loader
    from proteinlm.data.batches.schedule import Schedule

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
        "import time, numpy as np\n"
        "from pathlib import Path\n"
        "from proteinlm.data.batches.schedule import Schedule\n"
        f"lengths = np.clip(np.random.default_rng(0).lognormal(4.95, 0.62, {PFAM_PROTEINS}), 11, 2175).astype(np.int32)\n"
        "begin = time.perf_counter()\n"
        "schedule = Schedule(lengths, longest=2175, budget=65_536, per_step=4, seed=0, mask_percent=15)\n"
        "pieces = schedule.epoch(0)\n"
        "taken = time.perf_counter() - begin\n"
        "peak = int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"  # getrusage's may be ours
        "print(taken, peak / 1024, len(pieces))\n"
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
    with lzma.open(path, "wb", preset=1) as file:
        for number, length in enumerate(lengths_like_pfam(generator, proteins, 2175)):
            file.write(b">%d\n%s\n" % (number, LETTERS[generator.integers(0, 20, length)].tobytes()))
