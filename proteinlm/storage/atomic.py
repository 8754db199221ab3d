"""Writes files completely or not at all, and lets one process at a time own a directory or a lock."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from proteinlm.errors import InputError

DISK_FULL = "no space left on device"


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once it is complete and on the disk.

    Whatever goes wrong before, `path` keeps its old content and nothing is left beside it; a full disk is an `InputError`.
    """
    partial = path.with_name(f".{path.name}.partial")
    delete(partial)  # a run on several processes may have left a directory
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if is_disk_full(error):
            raise InputError(f"{path}: {DISK_FULL}; what was there before is untouched") from error
        raise
    sync_directory(path.parent)


def check_output(output: Path, *inputs: Path) -> None:
    """Raise `InputError` if `output` cannot be a new file: no directory for it, a directory itself, or one of `inputs`.

    Two paths are the same file by whatever links they lead there. Commands call this before they start to compute.
    """
    if output.is_dir():
        raise InputError(f"{output}: a directory, not a file to write")
    if not output.parent.is_dir():
        raise InputError(f"{output}: no such directory")
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            raise InputError(f"{output}: would overwrite the input {path}: name another file to write")


def delete(path: Path) -> None:
    """Remove a file, or a directory and all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


@contextmanager
def own_directory(directory: Path, what: str) -> Iterator[None]:
    """Keep other processes out of `directory` for as long as this one lives, however it ends.

    The file ``.lock`` stays there and locks nothing by itself. If the block refuses its input and has written nothing, the
    file goes, and so do the directories that were made for it.
    """
    made = [place for place in (directory, *directory.parents) if not place.exists()]
    file = directory / ".lock"
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = file.open("w")
        except FileNotFoundError:
            continue  # another process, which was refused, took the directory away
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{directory}: {what} is already running there") from None
            if not _is_at(lock, file):
                continue
            try:
                yield
            except InputError:
                if directory.is_dir() and [*directory.iterdir()] == [file]:  # the block may have removed it
                    file.unlink()
                    with suppress(OSError):  # another process has begun to use one of them
                        for place in made:
                            place.rmdir()
                raise
            return


@contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep all other processes out of the block, by a lock on `file`, which is deleted at the end of the block.

    Calls `waiting` once if another process is in the block, then waits for it. The lock ends with its process.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock, file):
                continue  # the process before this one deleted the file that this one waited for
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_at(opened: IO[str], file: Path) -> bool:
    """Whether an open file is still the one at the path `file`."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is among the causes of `error`; torch wraps the system's error in its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if DISK_FULL in str(error) or any(is_disk_full(cause) for cause, _ in getattr(error, "failures", {}).values()):
            return True
        error = error.__cause__ or error.__context__
    return False


def sync_directory(directory: Path) -> None:
    """Make a renaming in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
