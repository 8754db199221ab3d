"""The 200M checkpoint that ProteinLM's authors released; its size and hash are published nowhere."""

import logging
import zipfile
from pathlib import Path

from proteinlm.data.fetch.http import Effort, download
from proteinlm.errors import InputError
from proteinlm.storage.atomic import own_directory

_log = logging.getLogger(__name__)

ADDRESS = "https://cloud.tsinghua.edu.cn/f/f62bef666bc742ebb7c2/?dl=1"
NAME, FILE = "proteinlm-200m", "model_optim_rng.pt"
LARGEST = 8 << 30  # fp16 weights are 0.4 GB; with the optimizer's states 2.9 GB


def fetch_released(directory: Path, address: str = ADDRESS, effort: Effort | None = None) -> bool:
    """Make ``directory/proteinlm-200m/model_optim_rng.pt`` the released checkpoint; False if it was there already.

    What arrives must look like a file of `torch.save`; that nothing else is in it shows when it is imported. `InputError`
    with the address and what to do by hand; a download that was cut is continued the next time.
    """
    place = directory / NAME / FILE
    if place.exists():
        return False
    arrived = place.with_name(f"{FILE}.unchecked")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)  # to stay, for what is put there by hand
        with own_directory(place.parent, "fetching"):
            _log.info("%s -> %s", address, place)
            download(address, arrived, LARGEST, effort or Effort())
            try:
                _check(arrived)
                arrived.rename(place)
            finally:
                arrived.unlink(missing_ok=True)  # so that the next run gets it afresh
    except InputError as error:
        raise InputError(f"{error}; by hand: get {address} and put the checkpoint at {place}") from None
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    return True


def _check(file: Path) -> None:
    """Refuse what `torch.save` did not write: since version 1.6 a zip archive with a pickle, before that a pickle."""
    with file.open("rb") as content:
        begin = content.read(64)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                return
            raise InputError(f"what arrived is an archive of {', '.join(archive.namelist()[:3])}, not a checkpoint")
    if not begin.startswith(b"\x80"):
        raise InputError(f"what arrived is not a checkpoint, it begins with {begin[:40]!r}")
