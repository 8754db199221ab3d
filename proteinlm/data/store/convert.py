"""One source file to one Arrow IPC file, in a single pass over both, each hashed as its bytes go by."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, final

import numpy as np
import pyarrow as pa

from proteinlm.data.formats.compression import Watch
from proteinlm.data.formats.fasta import read_fasta
from proteinlm.data.formats.letters import Letters
from proteinlm.data.formats.proteinnet import read_proteinnet
from proteinlm.data.formats.tape import Record, read_json, read_lmdb
from proteinlm.data.store import columns, fields
from proteinlm.data.store.layout import PRETRAIN, Source
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError

PRETRAIN_ROWS = 65_536
LABELLED_ROWS = 1_024
"""Rows of every record batch of a file but the last: `Sequences` finds a record by division. A labelled protein takes
some 30 KiB, a plain one some 200 bytes."""

_READERS: dict[str, Callable[[Path, Watch], Iterator[Record]]] = {
    "lmdb": read_lmdb,
    "json": read_json,
    "proteinnet": read_proteinnet,
}


class Converted(NamedTuple):
    """What one conversion read and wrote."""

    source_sha256: str
    records: int
    residues: int
    size: int
    """Bytes of the Arrow file."""
    sha256: str
    """Of the Arrow file."""
    columns: dict[str, str]
    """Arrow's name of each column's type."""


def convert(
    source: Source, target: Path, advance: Callable[[int], object], letters: Letters | None = None
) -> Converted:
    """Write `source` to `target` as an uncompressed Arrow IPC file; `advance` is told of the raw bytes read.

    `letters` decides about characters that are no residues; by default it is strict.

    `InputError` for whatever is wrong with the source; the operating system's errors pass through. Either may leave
    an unfinished `target`.
    """
    read = hashlib.sha256()

    def watch(raw: bytes) -> None:
        read.update(raw)
        advance(len(raw))

    letters = letters or Letters()
    batches = _fasta(source.path, watch, letters) if source.kind == "fasta" else _labelled(source, watch, letters)
    first = next(batches, None)
    if first is None:
        raise InputError(f"{source.path}: no records")
    records = residues = 0
    with target.open("wb") as file:
        sink = _Hashed(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), first.schema) as writer:
            for batch in _chain(first, batches):
                writer.write_batch(batch)
                records += batch.num_rows
                letters = batch[columns.sequence_column(source.task)]
                residues += int(Sequences(pa.chunked_array([letters])).lengths().sum(dtype=np.int64))
        file.flush()
        os.fsync(file.fileno())
    types = {field.name: str(field.type) for field in first.schema}
    return Converted(read.hexdigest(), records, residues, sink.size, sink.sha256.hexdigest(), types)


def _chain(first: pa.RecordBatch, others: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others


def _fasta(path: Path, watch: Watch, letters: Letters) -> Iterator[pa.RecordBatch]:
    """The proteins of a FASTA file, `PRETRAIN_ROWS` at a time."""
    pending: list[pa.RecordBatch] = []
    records = rows = 0
    keys: tuple[str, ...] | None = None
    for proteins in read_fasta(path, watch, letters):
        keys = columns.header_keys(proteins) if keys is None else keys
        batch = columns.from_fasta(proteins, keys, records)
        records += batch.num_rows
        rows += batch.num_rows
        pending.append(batch)
        if rows >= PRETRAIN_ROWS:
            whole = pa.concat_batches(pending)
            for start in range(0, rows - PRETRAIN_ROWS + 1, PRETRAIN_ROWS):
                yield whole.slice(start, PRETRAIN_ROWS)
            rows %= PRETRAIN_ROWS
            pending = [whole.slice(len(whole) - rows)]
    if rows:
        yield pa.concat_batches(pending)


def _labelled(source: Source, watch: Watch, letters: Letters) -> Iterator[pa.RecordBatch]:
    """The records of any other format, checked."""
    records = _READERS[source.kind](source.path, watch)
    rows = PRETRAIN_ROWS if source.task == PRETRAIN else LABELLED_ROWS
    schema: dict[str, fields.Field] | None = None
    done = 0
    while chunk := list(islice(records, rows)):
        chunk = [_with_id(record, done + index) for index, record in enumerate(chunk)]

        def name(index: int, chunk: list[Record] = chunk, done: int = done) -> str:
            return f"{source.path}: record {done + index} ({chunk[index]['id']!s:.80})"

        schema = schema or fields.resolve(source.task, chunk, name)
        if "sequence" in schema:
            raise InputError(f"{source.path}: a field sequence beside primary")
        yield columns.from_records(source.task, fields.check_records(schema, chunk, name, letters), schema)
        done += len(chunk)


def _with_id(record: Record, index: int) -> Record:
    present = {name: value for name, value in record.items() if value is not None}
    return {"id": str(index)} | present


@final
class _Hashed:
    """A file that hashes what is written to it; Arrow writes from the beginning to the end."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None: ...

    def close(self) -> None: ...
