"""Unpacking a tar.gz from somewhere else: plain files under one directory, no more than was agreed."""

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from proteinlm.errors import InputError

_MAX_MEMBERS = 10_000
_BLOCK = 1 << 20


def unpack(packed: Path, directory: Path, largest: int) -> None:
    """Unpack `packed` into the new `directory`, at most `largest` bytes.

    Only directories and plain files with relative paths inside are taken; a link, a device, an absolute path or ``..``
    raises `InputError`, as do damage anywhere in the archive and a file that ends too early. What was unpacked by then
    is left to the caller to remove.
    """
    directory.mkdir(parents=True)
    left = largest
    try:
        with gzip.open(packed) as content:
            with tarfile.open(fileobj=content, mode="r|") as archive:
                for index, member in enumerate(archive):
                    if index >= _MAX_MEMBERS:
                        raise InputError(f"{packed}: more than {_MAX_MEMBERS} files")
                    left -= member.size
                    if left < 0:
                        raise InputError(f"{packed}: unpacks to more than {largest} bytes")
                    _take(archive, member, directory, packed)
            while content.read(_BLOCK):  # to the end, where the checksum is
                left -= _BLOCK
                if left < 0:
                    raise InputError(f"{packed}: unpacks to more than {largest} bytes")
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{packed}: damaged or truncated: {error}") from None


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, packed: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise InputError(f"{packed}: {member.name!r} would be unpacked elsewhere")
    target = directory / path
    if target.is_file():
        raise InputError(f"{packed}: {member.name!r} is in it twice")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif member.isreg():
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        if source is not None:
            _copy(source, target, member.size, packed)
    else:
        raise InputError(f"{packed}: {member.name!r} is neither a file nor a directory")


def _copy(source: IO[bytes], target: Path, size: int, packed: Path) -> None:
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
        if file.tell() != size:
            raise InputError(f"{packed}: truncated inside {target.name}")
