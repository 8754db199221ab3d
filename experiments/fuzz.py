"""Feed the readers what nobody wrote: ``python -m experiments.fuzz fasta --runs 1000000``, with the extra ``fuzz``.

Coverage-guided, from the samples in ``tests/corpus``. Of any bytes a reader makes records or an `InputError`: another
exception, an input that takes over a second, or more than 512 MB of memory ends the run, and leaves the input as a file.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["proteinlm.data"]):  # pyright: ignore[reportAttributeAccessIssue]
    from proteinlm.data.formats import fasta, proteinnet, safe_pickle, tape

from proteinlm.errors import InputError
from proteinlm.records.results import ROOT

CORPUS = ROOT / "tests/corpus"
SECONDS, MEGABYTES = 1, 512
BATCH = 50_000
"""Inputs of one process: atheris 3.0 never frees what an instrumented comparison of arrays gives, some 3 kB an input of the
FASTA reader, which the limit of memory would take for the reader's.
"""
GROWN = "corpus"


def of_file(read: Callable[..., Any], file: Path) -> Callable[[bytes], None]:
    """All that a reader of files makes of some content."""

    def consume(content: bytes) -> None:
        file.write_bytes(content)
        for _ in read(file, lambda raw: None):
            pass

    return consume


def targets(place: Path) -> dict[str, Callable[[bytes], Any]]:
    return {
        "fasta": of_file(fasta.read_fasta, place / "fuzzed.fasta"),
        "json": of_file(tape.read_json, place / "fuzzed.json"),
        "proteinnet": of_file(proteinnet.read_proteinnet, place / "fuzzed.txt"),
        "pickle": lambda content: safe_pickle.loads(content, "fuzzed: record 0"),  # a value of an LMDB
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.fuzz", description="Fuzz one of the readers.")
    parser.add_argument("reader", choices=list(targets(Path())))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"), help="for inputs that find something")
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)  # of a process that feeds one batch
    options = parser.parse_args(arguments)
    if options.place:
        feed(options)
    options.output.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")  # each input of a reader of files is a file
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        shutil.copytree(CORPUS / options.reader, Path(place) / GROWN)
        for begin in range(0, options.runs, BATCH):
            some = min(BATCH, options.runs - begin)
            command = [sys.executable, "-m", "experiments.fuzz", options.reader, f"--runs={some}", f"--place={place}"]
            if code := subprocess.run([*command, f"--output={options.output}"]).returncode:
                return code
    print(f"{options.reader}: {options.runs:,} inputs, and nothing was found")
    return 0


def feed(options: argparse.Namespace) -> NoReturn:
    """Feed one batch, adding to the grown corpus what reached new code; ends this process."""
    read = targets(options.place)[options.reader]

    def once(content: bytes) -> None:
        began = time.process_time()  # of the processor: a busy machine is no fault of the reader
        with suppress(InputError):
            read(content)
        if time.process_time() - began > SECONDS:
            raise TimeoutError(f"{len(content)} bytes took more than {SECONDS} s")

    limits = [
        f"-timeout={60 * SECONDS}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-runs={options.runs}",
        "-print_final_stats=1",
    ]
    found = f"-artifact_prefix={options.output}/{options.reader}-"
    atheris.Setup([sys.argv[0], str(options.place / GROWN), "-max_len=4096", found, *limits], once)
    atheris.Fuzz()
    raise SystemExit(0)


if __name__ == "__main__":
    raise SystemExit(main())
