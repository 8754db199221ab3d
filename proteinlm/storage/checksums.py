"""Files that carry their SHA-256, so that one that was cut or changed on the disk is known before it is used.

A single file ends in a seal; a directory has the sums of its files in files that ``sha256sum --check`` reads.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast, final

from proteinlm.errors import InputError

SUMS = "SHA256SUMS"
_BLOCK = 1 << 20
_MARK, _HEX = b"\nsha256 ", 64


@final
class _Hashing:
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def write(self, content: bytes, /) -> int:
        self.sum.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def seal(file: BinaryIO) -> Iterator[IO[bytes]]:
    """Yield a file to write content to, after which its seal follows in `file`. A zip archive may have a tail."""
    hashing = _Hashing(file)
    yield cast(IO[bytes], hashing)  # as much of one as torch needs
    file.write(_MARK + hashing.sum.hexdigest().encode() + b"\n")


def check_seal(path: Path) -> None:
    """Refuse a file whose content is not what its seal says."""
    seal = len(_MARK) + _HEX + 1
    left = path.stat().st_size - seal
    known = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (content := file.read(min(_BLOCK, left))):
            known.update(content)
            left -= len(content)
        found = file.read()
    if not found.startswith(_MARK) or len(found) != seal:
        raise InputError(f"{path}: damaged: it does not end in a checksum: it was cut, or is something else")
    if found != _MARK + known.hexdigest().encode() + b"\n":
        raise InputError(f"{path}: damaged: its checksum is another")


def sum_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_list(files: Iterable[Path]) -> str:
    """The sums of files of one directory, as ``sha256sum`` prints them."""
    return "".join(f"{sum_of(file)}  {file.name}\n" for file in files)


def check_sums(lists: Iterable[Path], computed: Mapping[str, str]) -> set[str]:
    """Refuse files that are not what the lists of sums beside them say, and lists that were themselves changed.

    Gives the names that are checksum_list. Sums already `computed` are not made again.
    """
    names: set[str] = set()
    for file in lists:
        content = file.read_bytes()
        sums = [line.partition("  ")[::2] for line in content.decode(errors="replace").split("\n")[:-1]]
        for known, name in sums:
            if known != (computed.get(name) or _sum_of_part(file.parent / name)):
                raise InputError(f"{file.parent / name}: damaged: its checksum is another")
        if content != "".join(f"{known}  {name}\n" for known, name in sums).encode():
            raise InputError(f"{file}: damaged: it does not end as a list of checksums does")
        names |= {name for _, name in sums}
    return names


def _sum_of_part(path: Path) -> str:
    try:
        return sum_of(path)
    except FileNotFoundError:
        raise InputError(f"{path}: a part of the checkpoint is missing") from None
    except (OSError, ValueError) as error:  # a damaged name may be one that no file can have
        raise InputError(f"{path}: damaged: {error}") from None
