"""TAPE's two layouts: LMDB directories of pickled records, and JSON lists of the same records."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, final

from proteinlm.data.formats import safe_pickle
from proteinlm.data.formats.compression import Watch, read_blocks
from proteinlm.errors import InputError

if TYPE_CHECKING:
    import lmdb

Record = dict[str, object]
"""One protein by TAPE's field names; values are strings, numbers, numpy arrays or nested lists."""

MAX_RECORD = 64 << 20
_CHUNK = 1 << 20
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


def read_lmdb(path: Path, watch: Watch) -> Iterator[Record]:
    """Records of an LMDB directory (or single file) in the order of its keys ``b"0"``, ``b"1"``, ...

    The values are pickles and read by `safe_pickle.loads`. `InputError` if ``num_examples`` is not the number of
    records.
    """
    import lmdb

    content = lmdb_file(path)
    try:
        with (
            content.open("rb") as raw,
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            size = _whole_size(path, content, environment)
            count = _count(path, transaction)
            for index in range(count):
                value = transaction.get(str(index).encode())
                if value is None:
                    raise InputError(f"{path}: record {index} is missing, of the {count} that num_examples says")
                yield _record(safe_pickle.loads(bytes(value), f"{path}: record {index}"), f"{path}: record {index}")
                while raw.tell() < size * (index + 1) // count:  # the hash keeps pace with the records
                    watch(raw.read(_CHUNK))
            while chunk := raw.read(_CHUNK):
                watch(chunk)
    except lmdb.Error as error:
        raise InputError(f"{path}: not a readable LMDB: {error}") from None


def lmdb_file(path: Path) -> Path:
    """The file that holds the content of an LMDB, which is usually a directory."""
    content = path / "data.mdb" if path.is_dir() else path
    if not content.is_file():
        raise InputError(f"{path}: not an LMDB: there is no data.mdb in it")
    return content


def _whole_size(path: Path, content: Path, environment: "lmdb.Environment") -> int:
    """Bytes of the file, if they are all there: LMDB maps it, and a page beyond its end would kill the process."""
    size = content.stat().st_size
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < expected:
        raise InputError(f"{path}: truncated: {size} bytes of {expected}")
    return size


def _count(path: Path, transaction: "lmdb.Transaction") -> int:
    stored = transaction.get(b"num_examples")
    if stored is None:
        raise InputError(f"{path}: no num_examples: not one of TAPE's LMDBs")
    count = safe_pickle.loads(bytes(stored), f"{path}: num_examples")
    others = 1 + (transaction.get(b"keys") is not None)  # TAPE's first dumps list their keys
    records = transaction.stat()["entries"] - others
    if count != records:
        raise InputError(f"{path}: num_examples is {short(count)}, but there are {records} records")
    return records


def read_json(path: Path, watch: Watch) -> Iterator[Record]:
    """Records of a JSON list, plain, .gz or .xz, decoded one at a time."""
    text = _Text(codecs.iterdecode(read_blocks(path, watch), "utf-8-sig"))
    index = 0
    try:
        text.expect("[")
        while text.peek() != "]":
            if index:
                text.expect(",")
            yield _record(text.value(), f"{path}: record {index}")
            index += 1
        text.expect("]")
        if text.peek():
            raise ValueError(f"{text.peek()!r} after the end of the list")
    except RecursionError:
        raise InputError(f"{path}: record {index}: nested too deep") from None
    except ValueError as error:
        raise InputError(f"{path}: record {index}: not a JSON list of records: {error}") from None


@final
class _Text:
    """JSON that arrives in pieces, of which no more than one value is kept."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces = iter(pieces)
        self.text, self.position = "", 0
        self.decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while (found := _NOT_BLANK.search(self.text, self.position)) is None:
            self.position = len(self.text)
            if not self.more():
                return ""
        self.position = found.start()
        return found.group()

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{self.peek()!r} where {character!r} belongs" if self.peek() else "the file is truncated")
        self.position += 1

    def value(self) -> object:
        """The next value; what cannot be decoded yet may be cut short, so more is read before it counts as an error."""
        self.peek()
        while True:
            try:
                value, self.position = self.decode(self.text, self.position)
                return value
            except json.JSONDecodeError as error:
                character = error.pos - self.position + 1
                if len(self.text) - self.position > MAX_RECORD:
                    raise ValueError(f"{error.msg} at its character {character}") from None
                if not self.more():
                    raise ValueError(f"{error.msg} at its character {character}, or the file is truncated") from None

    def more(self) -> bool:
        piece = next(self.pieces, None)
        if piece is not None:
            self.text, self.position = self.text[self.position :] + piece, 0
        return piece is not None


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{where}: not a dictionary of fields")
    return value
