"""The checkpoints of a run: their names, the newest good one, and which to delete."""

import shutil
import sys
from pathlib import Path

from proteinlm.checkpoint import sharded
from proteinlm.errors import InputError
from proteinlm.storage.atomic import delete
from proteinlm.storage.checksums import check_seal

DAMAGED = "damaged-"
"""The prefix of a checkpoint's name once it was found to be damaged."""
KEEP = 2
"""Checkpoints of a run that stay on disk: the last and, should it prove damaged, the one before."""


def path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps belongs."""
    return directory / f"step-{step:09d}.ckpt"


def step_of(file: Path) -> int:
    """Optimiser steps done when `file` was written."""
    return int(file.stem.removeprefix("step-"))


def last_good(directory: Path, *, reports: bool) -> Path | None:
    """The last checkpoint in `directory` that is as it was written, or None if there is none at all.

    Damaged ones after it are set aside, and named on standard error, by the process that `reports`; the others of a group
    come to the same outcome before, meanwhile and after. `InputError` if there are only damaged ones.
    """
    damaged: dict[Path, InputError] = {}
    for file in sorted(directory.glob("step-*.ckpt"), reverse=True):
        try:
            verify(file)
        except InputError as error:
            damaged[file] = error
            continue
        for old, error in damaged.items() if reports else ():
            print(f"{error}; going back to step {step_of(file)}", file=sys.stderr, flush=True)
            aside = old.with_name(f"{DAMAGED}{old.name}")
            delete(aside)
            old.rename(aside)
        return file
    for error in damaged.values():
        raise InputError(f"{error}; no other checkpoint is left: remove {directory} to start from the beginning")
    return None


def verify(file: Path) -> None:
    """Refuse a checkpoint that is not as it was written."""
    try:
        sharded.verify(file) if file.is_dir() else check_seal(file)
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror or error}") from None


def discard_old(directory: Path) -> None:
    """Delete all but the last `KEEP` checkpoints, damaged ones once there are so many good ones, and halves of any.

    Nothing may be being written.
    """
    found = sorted(directory.glob("step-*.ckpt"))
    for old in found[:-KEEP]:
        delete(old)
    for old in directory.glob(f"{DAMAGED}*") if len(found) >= KEEP else ():
        delete(old)
    for half in (*directory.glob(".step-*.partial"), *directory.glob(".step-*.old")):  # a killed process left it
        delete(half)


def best_of(directory: Path, step: int) -> Path:
    """Directory of the weights that were the best after `step` steps."""
    return directory / f"step-{step:09d}"


def discard_all_but(directory: Path, step: int) -> None:
    """Delete the weights of every other step."""
    for old in directory.glob("step-*"):
        if old != best_of(directory, step):
            shutil.rmtree(old)
