"""The residues of many proteins as one read-only column, in memory or memory-mapped."""

from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa

from proteinlm import vocabulary


class Sequences:
    """N proteins held in an Arrow column of letters (``string`` or ``large_string``), without a copy.

    Every chunk of the column but the last must have the same number of rows, which makes finding a record O(1).
    Columns of a file are pickled by its name: data workers that are not forked would be sent the whole corpus.
    """

    def __init__(self, column: pa.ChunkedArray, origin: tuple[Path, str] | None = None) -> None:
        """`origin` is the Arrow file that `column` is memory-mapped from, and the name of the column in it."""
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        if len({len(chunk) for chunk in chunks[:-1]} | {len(chunks[0])} if chunks else set()) > 1:
            raise ValueError("chunks of unequal length")
        self._rows = len(chunks[0]) if chunks else 1
        self._count = sum(map(len, chunks))
        self._chunks = [_buffers(chunk) for chunk in chunks]
        self._origin = origin

    @classmethod
    def from_file(cls, file: Path, column: str) -> "Sequences":
        """The letters in `column` of an Arrow file, memory-mapped."""
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all()[column], (file, column))

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return (Sequences.from_file, self._origin) if self._origin else super().__reduce_ex__(protocol)

    def __len__(self) -> int:
        return self._count

    def lengths(self) -> np.ndarray:
        """Residues per protein, (N,) int32."""
        parts = [np.diff(offsets).astype(np.int32) for offsets, _ in self._chunks]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def letters(self, record: int) -> np.ndarray:
        """ASCII letters of one protein, (L,) uint8; a view, not to be written to."""
        offsets, values = self._chunks[record // self._rows]
        row = record % self._rows
        return values[offsets[row] : offsets[row + 1]]

    def tokens(self, record: int) -> np.ndarray:
        """Token ids of one protein, (L,) uint8, without [CLS]."""
        return vocabulary.encode_bytes(self.letters(record))


def _buffers(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (rows + 1,) into the letters (residues,) uint8 of one chunk."""
    width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
    _, offsets, values = chunk.buffers()
    first = np.frombuffer(offsets, dtype=width)[chunk.offset : chunk.offset + len(chunk) + 1]
    return first, np.frombuffer(values, dtype=np.uint8) if values is not None else np.zeros(0, np.uint8)
