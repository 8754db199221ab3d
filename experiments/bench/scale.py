"""Time and memory as a corpus, a cluster and a sweep grow: each at a hundredth, a tenth and the whole of a size.

Every measurement is a process of its own, so that its memory can be read off. Times are of the processor or by the clock.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.bench.figures import Figure
from experiments.bench.workload import LETTERS, lengths_like_pfam
from proteinlm.errors import InputError
from proteinlm.records.results import RESULT

WORKERS = 8
LONGEST, BUDGET = 2175, 65_536
BLOCK = 200_000
"""Proteins that are made up at once."""
_PEAK = """
from pathlib import Path
def peak():  # MB; what getrusage says may be the parent's, from before exec
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
"""
_BUILDING = f"""{_PEAK}
import json, sys, time
from proteinlm.data.store import building
place = Path(sys.argv[1])
began = time.process_time()
building.build(place / "root", place / "store")
print(json.dumps({{
    "building, s": time.process_time() - began,
    "building, memory, MB": peak(),
    "the store, GB": sum(file.stat().st_size for file in (place / "store").rglob("*")) / 1e9,
}}))
"""
_CORPUS = f"""{_PEAK}
import json, sys, time
began = time.process_time()
from proteinlm.data import store
from proteinlm.data.batches.language_model import MaskedProteins, ShareOfSteps, training_loader
from proteinlm.data.batches.schedule import Schedule
imported = time.process_time()
sequences = store.open(Path(sys.argv[1])).sequences("pretrain", "train")
opened = time.process_time()
schedule = Schedule(sequences.lengths(), longest={LONGEST}, budget={BUDGET}, per_step={WORKERS}, seed=0, mask_percent=15)
schedule.epoch(0)
planned = time.process_time()
proteins = MaskedProteins(sequences, longest={LONGEST}, mask_percent=15, seed=0)
clock = time.perf_counter()
batches = iter(training_loader(proteins, ShareOfSteps(schedule, 0, 3, 0, 1), workers={WORKERS}, pin_memory=False))
sampled = next(batches).residues
waited = time.perf_counter() - clock
def of_its_own(process):  # MB; pages of the store that it alone has read are the system's, which may drop them
    lines = Path(f"/proc/{{process}}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024
children = Path("/proc/self/task").glob("*/children")
workers = [of_its_own(child) for file in children for child in file.read_text().split()]
sampled += sum(batch.residues for batch in batches)
print(json.dumps({{
    "opening, ms": 1000 * (opened - imported),
    "planning an epoch, s": planned - opened,
    "first batch, s by the clock": waited,
    "memory of the process, MB": peak(),
    "memory of a worker of its own, MB": max(workers, default=0.0),
    "residues that {WORKERS} workers gave, M": sampled / 1e6,
}}))
"""
_RANKS = f"""
import json, sys, time
import numpy as np
from proteinlm.data.batches.language_model import ShareOfSteps
from proteinlm.data.batches.schedule import Schedule
world, steps = int(sys.argv[1]), 4
lengths = np.clip(np.random.default_rng(0).lognormal(4.95, 0.62, 4_000_000), 11, {LONGEST}).astype(np.int32)
schedule = Schedule(lengths, longest={LONGEST}, budget=16_384, per_step=world, seed=0, mask_percent=15)
schedule.epoch(0)
for rank in range(0, world, max(1, world // 8)):
    numbers = [plan.number for plan in ShareOfSteps(schedule, 0, steps, rank, world)]
    assert numbers == list(range(rank, steps * world, world)), rank
began = time.process_time()
for _ in ShareOfSteps(schedule, 0, steps, world // 2, world):
    pass
print(json.dumps({{"what one process plans of a step, ms": 1000 * (time.process_time() - began) / steps}}))
"""


def corpus(most: int) -> list[Figure]:
    """A store of `most` proteins with lengths like Pfam's: built, opened, planned and sampled by eight workers."""
    figures = []
    for count in _sizes(most):
        with tempfile.TemporaryDirectory() as place:
            fasta = Path(place) / "root/pretrain/pretrain_train.fasta"
            fasta.parent.mkdir(parents=True)
            write_fasta(fasta, count)
            for code, argument in ((_BUILDING, place), (_CORPUS, f"{place}/store")):
                figures += _measured(code, argument, f"{count:,} proteins")
    return figures


def ranks(most: int) -> list[Figure]:
    """What each of up to `most` processes does to know its share of a step; every share is checked to be its own."""
    return [figure for world in _sizes(most) for figure in _measured(_RANKS, str(world), f"{world:,} processes")]


def sweep(directory: Path, most: int) -> list[Figure]:
    """A finished row of `directory` under `most` names, through the table, its verification, the page and wandb's table."""
    row = next((place for place in sorted(directory.iterdir()) if (place / "pretrain" / RESULT).is_file()), None)
    if row is None:
        raise InputError(f"--sweep {directory}: no finished row in it")
    figures = []
    for count in _sizes(most):
        with tempfile.TemporaryDirectory(dir=directory.parent) as place:
            made = Path(place) / "sweep"
            for number in range(count):
                _link_row(row, made / f"row-{number:05d}")
            for name, words in {
                "table": ["table7", "--partial", str(made)],
                "verifying": ["table7", "--partial", "--verify", str(made)],
                "page": ["report", str(made)],
                "wandb's table": ["dashboard", str(made)],
            }.items():
                seconds, megabytes = _of_command([sys.executable, "-m", f"experiments.{words[0]}", *words[1:]])
                figures.append(Figure(f"{count:,} rows: {name}, s", seconds, ""))
                figures.append(Figure(f"{count:,} rows: {name}, memory, MB", megabytes, ""))
            page = (made / "report.html").stat().st_size
            figures.append(Figure(f"{count:,} rows: the page, MB", page / 1e6, "", "under 5"))
    return figures


def write_fasta(path: Path, count: int) -> None:
    """`count` proteins of random letters with lengths like Pfam's."""
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        for first in range(0, count, BLOCK):
            lengths = lengths_like_pfam(draw, min(BLOCK, count - first), LONGEST)
            letters = LETTERS[draw.integers(0, 20, int(lengths.sum()), dtype=np.uint8)].tobytes()
            ends = lengths.cumsum()
            file.writelines(
                b">%d\n%s\n" % (first + number, letters[end - length : end])
                for number, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True))
            )


def _sizes(most: int) -> list[int]:
    return [max(1, most // 100), max(1, most // 10), most]


def _link_row(row: Path, copy: Path) -> None:
    """The records of a row under another name; all but the result are links to the same files."""
    for file in (each for each in row.rglob("*") if each.is_file() and each.suffix not in (".ckpt", ".safetensors")):
        target = copy / file.relative_to(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.name == RESULT:
            target.write_text(json.dumps(json.loads(file.read_text()) | {"row": copy.name}))
        else:
            os.link(file, target)


def _measured(code: str, argument: str, of: str) -> list[Figure]:
    done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{of}: {done.stderr[-2000:]}")
    return [Figure(f"{of}: {name}", value, "") for name, value in json.loads(done.stdout.splitlines()[-1]).items()]


def _of_command(command: list[str]) -> tuple[float, float]:
    """Seconds of the processor and megabytes at most of a command."""
    code = (
        "import json, resource, subprocess, sys\n"
        "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print('used', used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    found = re.search(r"^used (\S+) (\S+) (\d+)$", done.stdout, re.MULTILINE)
    if not found or int(found[3]) > 1:  # 1: what was verified disagrees, which is not what is measured here
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(found[1]), float(found[2])
