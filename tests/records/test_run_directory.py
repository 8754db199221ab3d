"""A run directory has one owner and one config, and a disk that fills up costs nothing that was there before."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proteinlm import checkpoint
from proteinlm.errors import InputError
from proteinlm.storage.atomic import own_directory, write_text, written_whole
from proteinlm.training import pretraining
from tests.runs import SMALL, composed, equal, finish, home, start, weights


def everything(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_another_config_is_refused_and_nothing_is_touched(tmp_path: Path):
    pretraining.run(composed(*SMALL, f"output={tmp_path}", "train.tokens=4096"))
    before = everything(tmp_path)
    with pytest.raises(
        InputError, match=r"single/tiny/pretrain belongs to another config \(train.tokens is 4096 there and 8192"
    ):
        pretraining.run(composed(*SMALL, f"output={tmp_path}", "train.tokens=8192"))
    assert everything(tmp_path) == before


def test_on_the_command_line_that_is_one_line(tmp_path: Path):
    home(tmp_path).mkdir(parents=True)
    shutil.copy(_config(tmp_path / "other"), home(tmp_path) / "config.yaml")
    process = start(tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "belongs to another config (seed is 7 there and 0 here)" in errors


def _config(output: Path) -> Path:
    from proteinlm.records import results

    config = composed(*SMALL, f"output={output}", "seed=7")
    home(output).mkdir(parents=True)
    results.claim(home(output), config)
    return home(output) / "config.yaml"


def test_two_runs_in_one_directory(tmp_path: Path):
    config = composed(*SMALL, f"output={tmp_path}")
    with (
        own_directory(home(tmp_path), "somebody else's run"),
        pytest.raises(InputError, match="is already running there"),
    ):
        pretraining.run(config)


def test_ownership_ends_with_its_process(tmp_path: Path):
    dies = (
        "import pathlib, os; from proteinlm.storage.atomic import own_directory\n"
        "with own_directory(pathlib.Path('.'), 'x'): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", dies], check=False, cwd=tmp_path)
    with own_directory(tmp_path, "us"), (tmp_path / ".lock").open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_refusal_leaves_nothing_where_nothing_was(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    for written in (False, True):
        with pytest.raises(InputError, match="refused"), own_directory(tmp_path / "runs/group/name", "a run"):
            if written:
                (tmp_path / "runs/group/name/config.yaml").write_text("")
            raise InputError("refused")
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        kept = {"runs/group", "runs/group/name", "runs/group/name/.lock", "runs/group/name/config.yaml"}
        assert left == {"runs"} | (kept if written else set())


def test_a_refusal_after_the_directory_was_removed_is_the_same_refusal(tmp_path: Path):
    with pytest.raises(InputError, match="refused"), own_directory(tmp_path / "parts", "a job"):
        shutil.rmtree(tmp_path / "parts")
        raise InputError("refused")


def test_a_lock_that_was_left_keeps_nobody_out_and_one_that_was_taken_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".lock").write_text("")
    flock, given = fcntl.flock, []

    def removing(lock: Any, how: int) -> None:
        flock(lock, how)
        if not given:
            (tmp_path / ".lock").unlink()  # by a refused process, between opening and locking
        given.append(how)

    monkeypatch.setattr(fcntl, "flock", removing)
    with own_directory(tmp_path, "us"):
        assert len(given) == 2
        with pytest.raises(InputError, match="us is already running there"), own_directory(tmp_path, "us"):
            pass
    assert (tmp_path / ".lock").exists()


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "record"
    write_text(file, "old")
    with pytest.raises(KeyboardInterrupt), written_whole(file) as new:
        new.write(b"half of the n")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; needs the right to mount one."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small disk here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_during_a_checkpoint(small_disk: Path, tmp_path: Path):
    finish(start(tmp_path / "undisturbed"))
    # a checkpoint of this model has 0.5 MB: leave room for two and a half
    ballast = small_disk / "ballast"
    process = start(small_disk)
    ballast.write_bytes(bytes(3 * 2**20 - _room_for_two_and_a_half(tmp_path / "undisturbed")))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    line = errors.splitlines()[-1]
    assert line.startswith("error: ")
    assert "no space left on device" in line
    kept = list((home(small_disk) / "checkpoints").iterdir())
    assert [file.suffix for file in kept] == [".ckpt"] * len(kept), "nothing half-written is left"
    assert checkpoint.last_good(home(small_disk) / "checkpoints", reports=False) is not None

    ballast.unlink()  # room again: the run goes on, from the checkpoint before
    finish(start(small_disk))
    assert equal(weights(small_disk), weights(tmp_path / "undisturbed"))


def _room_for_two_and_a_half(output: Path) -> int:
    return int(2.5 * max(file.stat().st_size for file in (home(output) / "checkpoints").iterdir()))
