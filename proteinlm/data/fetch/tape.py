"""TAPE's published archives: downloaded in pieces if need be, verified, and unpacked whole or not at all."""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proteinlm.data.fetch.archive import unpack
from proteinlm.data.fetch.http import Effort, download
from proteinlm.errors import InputError
from proteinlm.storage.atomic import own_directory

_log = logging.getLogger(__name__)

ADDRESS = "https://s3.amazonaws.com/songlabdata/proteindata/data_pytorch"
"""Where TAPE's LMDB archives are since August 2021; the older ``/proteindata/`` bucket answers 403."""


@dataclass(frozen=True)
class Archive:
    """One ``<task>.tar.gz``."""

    task: str
    md5: str
    """As torchdrug publishes it; empty where nobody does."""
    largest: int
    """Bytes that the download may have; it is refused beyond."""
    unpacked: int
    """Bytes that its content may have."""


_SMALL, _UNPACKED = 2 << 30, 8 << 30  # the five together: 120 MB, unpacked 2 GB

TAPE = (
    Archive("fluorescence", "d63d1d51ec8c20ff0d981e4cbd67457a", _SMALL, _UNPACKED),
    Archive("stability", "aa1e06eb5a59e0ecdae581e9ea029675", _SMALL, _UNPACKED),
    Archive("remote_homology", "1d687bdeb9e3866f77504d6079eed00a", _SMALL, _UNPACKED),
    Archive("secondary_structure", "2f61e8e09c215c032ef5bc8b910c8e97", _SMALL, _UNPACKED),
    Archive("proteinnet", "", _SMALL, _UNPACKED),
    Archive("pfam", "", 16 << 30, 64 << 30),  # 7.7 GB, unpacked 19 GB
)


def fetch(archive: Archive, directory: Path, address: str = ADDRESS, effort: Effort | None = None) -> bool:
    """Make ``directory/<task>`` hold the content of `archive`; False if it was there already.

    An archive at ``directory/<task>.tar.gz``, put there by hand, is used instead of the network. `InputError` with the
    address and what to do by hand if the network fails, and for content that is not what was published; a download that
    was cut is kept and continued the next time.
    """
    place, packed = directory / archive.task, directory / f"{archive.task}.tar.gz"
    url = f"{address.rstrip('/')}/{archive.task}.tar.gz"
    if place.exists():
        return False
    try:
        directory.mkdir(parents=True, exist_ok=True)  # to stay, for what is put there by hand
        with own_directory(directory, "fetching"):
            is_ours = not packed.exists()
            if is_ours:
                _log.info("%s -> %s", url, packed)
                download(url, packed, archive.largest, effort or Effort())
            try:
                _verify(packed, archive)
                _unpack(packed, place, archive)
            except InputError:
                if is_ours:
                    packed.unlink()  # so that the next run gets it afresh
                raise
            if is_ours:
                packed.unlink()
    except InputError as error:
        raise InputError(
            f"{error}; by hand: get {url}, put it at {packed} and repeat, or unpack it so that {place} holds "
            f"{archive.task}_<split>.lmdb"
        ) from None
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    return True


def _verify(packed: Path, archive: Archive) -> None:
    with packed.open("rb") as file:
        begin = file.read(64)
        file.seek(0)
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if not begin.startswith(b"\x1f\x8b"):
        raise InputError(f"{packed}: not a gzip archive, it begins with {begin[:40]!r}")
    if archive.md5 and digest != archive.md5:
        raise InputError(f"{packed}: md5 {digest}, not the published {archive.md5}")


def _unpack(packed: Path, place: Path, archive: Archive) -> None:
    partial = place.with_name(f".{place.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        unpack(packed, partial, archive.unpacked)
        if not (partial / archive.task).is_dir():
            raise InputError(f"{packed}: no directory {archive.task} in it")
        (partial / archive.task).rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fetch_all(directory: Path, tasks: tuple[str, ...], address: str = ADDRESS) -> Iterator[tuple[str, bool]]:
    """Fetch the archives of `tasks`, all if there are none, and say of each whether it was fetched."""
    names = [archive.task for archive in TAPE]
    for task in tasks:
        if task not in names:
            raise InputError(f"{task} is not one of {', '.join(names)}")
    for archive in TAPE:
        if not tasks or archive.task in tasks:
            yield archive.task, fetch(archive, directory, address)
