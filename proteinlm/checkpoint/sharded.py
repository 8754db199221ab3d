"""A checkpoint that many processes write together: a directory of ``torch.distributed.checkpoint``.

It holds tensors by name, and `REST`, everything else. It can be read by any number of processes that divide the tensors
in any way, or by one that does not divide them.
"""

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from proteinlm.errors import InputError, first_line
from proteinlm.storage.atomic import DISK_FULL, delete, is_disk_full, sync_directory, write_text, written_whole
from proteinlm.storage.checksums import SUMS, check_sums, checksum_list

REST = "rest.pt"
INDEX = ".metadata"
WEIGHT, MOMENT = "weight/", "moment/"
"""Prefixes of the tensors' names: ``weight/<parameter>`` and ``moment/<parameter>/<which>``."""


def checkpoint_tensors(weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a sharded checkpoint."""
    tensors = {f"{WEIGHT}{name}": tensor for name, tensor in weights.items()}
    return tensors | {f"{MOMENT}{name}/{key}": t for name, state in moments.items() for key, t in state.items()}


def lightning_entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of Lightning's checkpoint that hold the `tensors` of a sharded one."""
    states: dict[str, dict[str, Tensor]] = {}
    for name in (name for name in tensors if name.startswith(MOMENT)):
        parameter, key = name.removeprefix(MOMENT).rsplit("/", 1)
        states.setdefault(parameter, {})[key] = tensors[name]
    group = {"params": list(range(len(states))), "names": list(states)}
    weights = {n.removeprefix(WEIGHT): tensor for n, tensor in tensors.items() if n.startswith(WEIGHT)}
    optimizer = {"state": dict(enumerate(states.values())), "param_groups": [group]}
    return {"state_dict": weights, "optimizer_states": [optimizer]}


def save(directory: Path, tensors: Mapping[str, Tensor], rest: dict[str, Any]) -> None:
    """Write tensors, DTensors among them, beside `directory`, which is replaced when all processes have written.

    All processes must call it; `rest` is the first's.
    """
    first = distributed.get_rank() == 0
    partial = directory.with_name(f".{directory.name}.partial")
    _by_the_first(directory, lambda: _emptied(partial))
    problem: BaseException | None = None  # torch's CheckpointException is no Exception
    try:
        dcp.save(dict(tensors), storage_writer=FileSystemWriter(partial))
        if first:
            with written_whole(partial / REST) as file:
                torch.save(rest, file)
        own = sorted(partial.glob(f"__{distributed.get_rank()}_*"))
        own += [partial / INDEX, partial / REST] if first else []
        write_text(partial / f"{distributed.get_rank()}.{SUMS}", checksum_list(own))
    except (dcp.api.CheckpointException, InputError, OSError, RuntimeError) as error:
        problem = error  # of all processes, or of one alone, for which the others must not wait
    outcomes: list[Any] = [""] * distributed.get_world_size()
    distributed.all_gather_object(outcomes, _reason(problem) if problem else "")
    if any(outcomes):
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        if DISK_FULL in outcomes or problem is None:
            reason = DISK_FULL if DISK_FULL in outcomes else next(filter(None, outcomes))
            raise InputError(f"{directory}: {reason}; what was there before is untouched") from None
        raise problem
    _by_the_first(directory, lambda: _replace(directory, partial))


def load(directory: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fill the given tensors, DTensors among them, from `directory`; the rest is returned.

    All processes must call it. `InputError` for a missing file, and for a tensor that is not there or has another shape.
    """
    check(directory, tensors)
    dcp.load(dict(tensors), storage_reader=_Reader(directory))
    return torch.load(directory / REST, weights_only=True)


def load_whole(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors, undivided, and the rest; each process for itself."""
    tensors = {name: torch.empty(known.size, dtype=known.properties.dtype) for name, known in _known(directory).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # that is what is wanted
        dcp.load(dict(tensors), storage_reader=_Reader(directory), no_dist=True)
    return tensors, torch.load(directory / REST, weights_only=True)


def names(directory: Path) -> set[str]:
    """The tensors in a checkpoint."""
    return set(_known(directory))


def verify(directory: Path) -> None:
    """Refuse a checkpoint that lacks a file, or has one that is not as it was written."""
    names = check_sums(sorted(directory.glob(f"*.{SUMS}")), {})
    for file in (INDEX, *_parts(_Reader(directory).read_metadata(), directory)):
        if file not in names:
            raise InputError(f"{directory / file}: damaged: it has no checksum")


def check(directory: Path, wanted: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint that lacks a file, or one of the tensors `wanted`, or has it in another shape."""
    known = _known(directory)
    for name, tensor in sorted(wanted.items()):
        shape = tuple(known[name].size) if name in known else None
        if shape != tuple(tensor.shape):
            found = f"has shape {shape}" if shape is not None else "is missing"
            raise InputError(f"{directory}: another architecture: {name} {found}, not {tuple(tensor.shape)}")


def _known(directory: Path) -> dict[str, TensorStorageMetadata]:
    metadata = _Reader(directory).read_metadata()
    _parts(metadata, directory)
    return {n: known for n, known in metadata.state_dict_metadata.items() if isinstance(known, TensorStorageMetadata)}


def _parts(metadata: Metadata, directory: Path) -> list[str]:
    """The files of a checkpoint besides its index; `InputError` if one is missing."""
    files = sorted({stored.relative_path for stored in metadata.storage_data.values()} | {REST})
    for file in files:
        if not (directory / file).is_file():
            raise InputError(f"{directory / file}: a part of the checkpoint is missing")
    return files


class _Reader(FileSystemReader):
    """Reads the index of a checkpoint without running what it says: torch's reader would unpickle anything."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        file = Path(self.path) / INDEX
        try:
            with file.open("rb") as opened:
                metadata = _Index(opened).load()
        except FileNotFoundError:
            raise InputError(f"{file}: a part of the checkpoint is missing") from None
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: not the index of a checkpoint: {error}") from None
        if getattr(metadata, "storage_meta", None):
            metadata.storage_meta.load_id = self.load_id
        return metadata


class _Index(pickle.Unpickler):
    """Admits the records that torch's index consists of."""

    MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
    NAMES = (("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "Path"))

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        records = module in self.MODULES and isinstance(found, type)
        if records or (module, name) in self.NAMES or (module == "torch" and isinstance(found, torch.dtype)):
            return found
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _by_the_first(directory: Path, action: Callable[[], None]) -> None:
    """Let the first process do what the others wait for; all raise if it cannot."""
    reason = [""]
    if distributed.get_rank() == 0:
        try:
            action()
        except OSError as error:
            reason = [_reason(error)]
    distributed.broadcast_object_list(reason)
    if reason[0]:
        raise InputError(f"{directory}: {reason[0]}; what was there before is untouched")


def _emptied(directory: Path) -> None:
    delete(directory)  # a run on one process may have left a file
    directory.mkdir(parents=True)


def _replace(directory: Path, partial: Path) -> None:
    """Rename `partial`; an older directory of that name, which a rename cannot replace, steps aside first."""
    aside = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if directory.is_dir():
        directory.rename(aside)
    elif directory.exists():
        directory.unlink()
    os.replace(partial, directory)
    sync_directory(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _reason(problem: BaseException) -> str:
    """Why nothing could be written, in one line."""
    return DISK_FULL if is_disk_full(problem) else first_line(problem)
