"""Computes results of a FASTA file window by window: memory does not grow, and finished windows are not repeated.

While the output is made, its finished windows are in ``.<name>.parts`` beside it. Each is an Arrow file named by a digest
of everything that it was computed from, so the same command finds them after an interruption, and a command with another
model or a changed sequence does not.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import final

import pyarrow as pa

from proteinlm.data.formats.letters import STRICT, Letters
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.model import LoadedModel
from proteinlm.inference.proteins import Protein, Window, check_names, file_of, read, tokens_of, windows
from proteinlm.storage.atomic import check_output, own_directory, written_whole

FORMAT = 1  # to be raised when the tables of the same settings become others
BATCHES = 8  # of a window: enough to sort by length, little enough to lose


@dataclass(frozen=True)
class Job:
    """One table for each window of a FASTA file."""

    source: Path
    model: LoadedModel
    compute: Callable[[Window], pa.Table]
    settings: Mapping[str, object]
    """The settings that the tables depend on besides the model."""
    title: str
    cost: Callable[[Protein], int] = tokens_of
    """The number of tokens that the model computes for a protein."""
    letters: str = STRICT
    """What is done with characters that are no residues: one of `config.data.LETTERS`."""
    stored_name: Callable[[str], str] | None = None
    """The function from a protein's name to the one by which the output finds it, if that is another."""

    def windows(self) -> Generator[Window]:
        """The proteins, with a progress bar; at the end a line says which letters were dropped or replaced."""
        path = self.source
        plain = path.is_file() and path.suffix not in (".gz", ".xz")
        letters, budget = Letters(self.letters), BATCHES * self.model.machine.batch_tokens
        with Bar(self.title, path.stat().st_size if plain else None) as bar:
            proteins = read(path, self.model.longest, self.stored_name, letters, self.model.advice)
            for window in windows(proteins, budget, self.cost):
                yield window
                bar.advance(sum(protein.size for protein in window))
        if summary := letters.summary():
            print(f"{file_of(path)}: {summary}", file=sys.stderr)

    def tables(self) -> Iterator[pa.Table]:
        """The table of each window, as soon as it is computed."""
        for window in self.windows():
            yield self.compute(window)

    def to_file(self, output: Path, write: Callable[[Path, "FinishedWindows"], None]) -> None:
        """Compute the windows that are not finished yet, then let `write` make the output of all."""
        check_output(output, file_of(self.source))
        if self.stored_name and self.source.is_file():  # standard input can be read only once
            check_names(self.source, self.stored_name, self.letters)
        with resume(output, self.model, self.settings) as finished, closing(self.windows()) as coming:
            for window in coming:
                content = [f"{protein.name} {len(protein.letters)}\n".encode() for protein in window]
                content += [protein.letters.tobytes() for protein in window]
                finished.add(b"".join(content), len(window), partial(self.compute, window))
            write(output, finished)


@final
class FinishedWindows:
    """The tables of finished windows, in order, on disk."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        self.directory, self.records = directory, 0
        self.start = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        self.files: list[Path] = []

    def add(self, content: bytes, records: int, compute: Callable[[], pa.Table]) -> None:
        """Compute the table of `content` and save it, unless an earlier attempt has saved it."""
        digest = self.start.copy()
        digest.update(content)
        file = self.directory / f"{digest.hexdigest()[:32]}.arrow"
        if not file.exists():
            table = compute()
            with written_whole(file) as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        self.files.append(file)
        self.records += records

    def __iter__(self) -> Iterator[pa.Table]:
        for file in self.files:
            with pa.OSFile(str(file)) as source:  # not memory-mapped: the pages would count as memory of this process
                yield pa.ipc.open_file(source).read_all()

    @property
    def schema(self) -> pa.Schema:
        return next(iter(self)).schema


def proteins_table(window: list[Protein], columns: Mapping[str, pa.Array | list]) -> pa.Table:
    """Make a table with ``id`` and ``length`` of each protein before the other columns."""
    lengths = pa.array([len(protein.letters) for protein in window], pa.int32())
    return pa.table({"id": pa.array([protein.name for protein in window]), "length": lengths, **columns})


@contextmanager
def resume(output: Path, model: LoadedModel, settings: Mapping[str, object]) -> Iterator[FinishedWindows]:
    """Find the finished windows of `output`; they are deleted when the block ends well, and stay if it fails."""
    settings = {**settings, "weights": model.fingerprint, "precision": model.machine.precision}
    if model.stretches:
        settings["stretches"] = asdict(model.stretches)
    with find_finished(output, settings) as finished:
        yield finished


@contextmanager
def find_finished(output: Path, settings: Mapping[str, object], what: str = "protein") -> Iterator[FinishedWindows]:
    """As `resume`, of results that depend on no model's weights; `what` is one record of them."""
    check_output(output)
    settings = {**settings, "format": FORMAT}
    directory = output.with_name(f".{output.name}.parts")
    with own_directory(directory, f"what writes {output.name}"):
        finished = FinishedWindows(directory, settings)
        try:
            yield finished
        except InputError as error:
            if not finished.records:
                raise
            count = f"{finished.records:,} finished {what}{'s' if finished.records > 1 else ''}"
            raise InputError(f"{error}; kept for the next run: {count}") from None
        finally:
            if not any(directory.glob("*.arrow")):
                shutil.rmtree(directory)
        shutil.rmtree(directory, ignore_errors=True)  # there is none if nothing had to be computed
