"""From a FASTA file to results, window by window: in memory that does not grow, and without repeating what is done.

While a file is written, its finished windows lie in ``.<name>.parts`` beside it, each an Arrow file named by a digest of
all that it was computed from. The same command after an interruption finds them; another model or a changed sequence
does not.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import pyarrow as pa

from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.model import Loaded
from proteinlm.inference.proteins import Protein, Window, read, tokens_of, windows
from proteinlm.storage.atomic import owned, written_whole

FORMAT = 1  # to be raised when the tables of the same settings become others
BATCHES = 8  # of a window: enough to sort by length, little enough to lose


@dataclass(frozen=True)
class Job:
    """One table for each window of a FASTA file."""

    source: Path
    model: Loaded
    compute: Callable[[Window], pa.Table]
    settings: Mapping[str, object]
    """What the tables depend on besides the model."""
    title: str
    cost: Callable[[Protein], int] = tokens_of
    """Tokens that a protein makes the model compute."""

    def windows(self) -> Generator[Window]:
        """The proteins, with a progress bar."""
        path = self.source
        plain = path.is_file() and path.suffix not in (".gz", ".xz")
        budget = BATCHES * self.model.machine.batch_tokens
        with Bar(self.title, path.stat().st_size if plain else None) as bar:
            for window in windows(read(path, self.model.longest), budget, self.cost):
                yield window
                bar.advance(sum(protein.size for protein in window))

    def tables(self) -> Iterator[pa.Table]:
        """Each as soon as it is computed."""
        for window in self.windows():
            yield self.compute(window)

    def to_file(self, output: Path, write: Callable[[Path, "Finished"], None]) -> None:
        """Compute what is not done yet, then let `write` make the file of all."""
        with kept(output, self.model, self.settings) as finished, closing(self.windows()) as coming:
            for window in coming:
                content = [f"{protein.name} {len(protein.letters)}\n".encode() for protein in window]
                content += [protein.letters.tobytes() for protein in window]
                finished.add(b"".join(content), len(window), partial(self.compute, window))
            write(output, finished)


@final
class Finished:
    """The tables of finished windows, in order, on the disk."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        self.directory, self.records = directory, 0
        self.start = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        self.files: list[Path] = []

    def add(self, content: bytes, records: int, compute: Callable[[], pa.Table]) -> None:
        """Compute the table of `content`, unless that has been done."""
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
    """A table with ``id`` and ``length`` of each protein before the other columns."""
    lengths = pa.array([len(protein.letters) for protein in window], pa.int32())
    return pa.table({"id": pa.array([protein.name for protein in window]), "length": lengths, **columns})


@contextmanager
def kept(output: Path, model: Loaded, settings: Mapping[str, object]) -> Iterator[Finished]:
    """The finished windows of `output`; forgotten once it is written, kept if anything goes wrong."""
    if not output.parent.is_dir():
        raise InputError(f"{output}: no such directory")
    settings = {**settings, "format": FORMAT, "weights": model.fingerprint, "precision": model.machine.precision}
    directory = output.with_name(f".{output.name}.parts")
    with owned(directory, f"what writes {output.name}"):
        finished = Finished(directory, settings)
        try:
            yield finished
        except InputError as error:
            if not finished.records:
                raise
            proteins = f"{finished.records:,} finished protein{'s' if finished.records > 1 else ''}"
            raise InputError(f"{error}; kept for the next run: {proteins}") from None
        finally:
            if not any(directory.glob("*.arrow")):
                shutil.rmtree(directory)
        shutil.rmtree(directory, ignore_errors=True)  # there is none if nothing had to be computed
