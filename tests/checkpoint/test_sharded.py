"""A disk that is full while many processes write a checkpoint is one line in each, and the checkpoint before stays whole."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystem

from proteinlm.checkpoint import sharded
from proteinlm.errors import InputError
from tests.runs import in_group


@contextmanager
def into_a_full_disk(self: FileSystem, path: Any, mode: str) -> Iterator[BinaryIO]:
    with open("/dev/full", "wb") as stream:
        yield stream


@contextmanager
def full(path: Path) -> Iterator[BinaryIO]:
    """As `proteinlm.storage.atomic.written_whole` on a full disk."""
    raise InputError(f"{path}: no space left on device; what was there before is untouched")
    yield


@contextmanager
def broken(path: Path) -> Iterator[BinaryIO]:
    raise PermissionError(13, "Permission denied")
    yield


def without_space(directory: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def save(directory: Path, value: float) -> None:
    own = f"weight/{distributed.get_rank()}"  # each process has something to write
    sharded.save(directory, {own: torch.full((20_000,), value)}, {"step": value})


@pytest.mark.parametrize(
    "who", ["second process", "all processes", "first process, at the end", "first process, at once"]
)
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path, who: str):
    directory = tmp_path / "step-000000003.ckpt"

    def work() -> None:
        distributed.init_process_group("gloo")
        save(directory, 1.0)
        rank = distributed.get_rank()
        with pytest.MonkeyPatch.context() as patched:
            if who == "first process, at the end":
                if rank == 0:
                    patched.setattr(sharded, "written_whole", full)
            elif who == "first process, at once":
                patched.setattr(sharded, "_emptied", without_space)
            elif rank == 1 or who == "all processes":
                patched.setattr(FileSystem, "create_stream", into_a_full_disk)
            with pytest.raises(InputError) as error:
                save(directory, 2.0)
        message = "no space left on device; what was there before is untouched"
        assert str(error.value) == f"{directory}: {message}"
        distributed.barrier()
        assert [path.name for path in tmp_path.iterdir()] == [directory.name]
        tensors, rest = sharded.load_whole(directory)
        assert rest == {"step": 1.0}
        assert sorted(tensors) == ["weight/0", "weight/1"]
        assert all((tensor == 1).all() for tensor in tensors.values())
        distributed.barrier()
        save(directory, 3.0)  # there is space again
        assert sharded.load_whole(directory)[1] == {"step": 3.0}
        distributed.barrier()

    in_group(2, work)


def test_another_failure_of_the_first_process_does_not_let_the_others_wait(tmp_path: Path):
    def work() -> None:
        distributed.init_process_group("gloo")
        first = distributed.get_rank() == 0
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sharded, "written_whole", broken)
            with pytest.raises(PermissionError if first else InputError, match="Permission denied"):
                save(tmp_path / "step-000000003.ckpt", 1.0)
        distributed.barrier()
        assert not list(tmp_path.iterdir())

    in_group(2, work)
