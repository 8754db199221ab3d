"""``proteinlm data`` does what it says, helps without loading much, and ends bad input with one line and code 2."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proteinlm.data.cli import app
from tests.data.samples import protein

MAIN = "from proteinlm.data.cli import app; app()"


@pytest.fixture
def root(tmp_path) -> Path:
    path = tmp_path / "data" / "pretrain" / "pretrain_train.fasta"
    path.parent.mkdir(parents=True)
    path.write_text(">a\nACD\n>b\nEF\n")
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("PROTEINLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_build_check_show(root, tmp_path, run):
    for arguments in ((), ("--to", tmp_path / "store")):
        result = run("build", root, *arguments)
        assert result.exit_code == 0, result.output
        assert "pretrain  train        2         5  pretrain/pretrain_train.fasta" in result.stdout
    for place in (root, tmp_path / "store"):
        assert "2 records as in the manifest, source as built" in run("check", place).stdout
        assert "sequence: large_string" in run("show", place).stdout


def test_bad_input_is_one_line_and_code_2(root, tmp_path, run):
    assert_refused(run("show", root), "not a store")
    assert_refused(run("build", tmp_path / "nowhere"), "no such directory")
    assert_refused(run("build", root, "--to", root), "not a store")
    run("build", root, "--to", tmp_path / "store")
    path = tmp_path / "store/pretrain/train.arrow"
    path.write_bytes(path.read_bytes().replace(b"ACD", b"ACE"))
    assert_refused(run("check", tmp_path / "store"), f"{path}: its bytes do not match the manifest")
    (root / "pretrain/pretrain_train.fasta").write_text(">a\nACJ\n")
    assert_refused(run("build", root), "record 0 (a), line 2: letter 'J' at position 3")
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_says_what_is_there_and_what_is_not(tmp_path, run):
    (tmp_path / "data/stability").mkdir(parents=True)
    result = run("fetch", "tape", "--to", tmp_path / "data", "--only", "stability")
    assert "stability: already there" in result.stdout
    assert_refused(run("fetch", "tape", "--to", tmp_path / "data", "--only", "unknown"), "unknown is not one of")


def test_help_answers_without_the_heavy_libraries():
    code = "import sys; from proteinlm.data.cli import app; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "numpy", "torch", "lmdb", "omegaconf"} & set(modules)
    result = subprocess.run([sys.executable, "-c", MAIN, "--help"], capture_output=True, text=True, check=True)
    assert all(name in result.stdout for name in ("build", "check", "show", "fetch"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_stopped_leaves_nothing(root, tmp_path, number):
    path = root / "pretrain" / "pretrain_valid.fasta"
    os.mkfifo(path)  # a source that never ends
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "build", str(root)],
        env=os.environ | {"PROTEINLM_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with path.open("wb", buffering=0) as source:
        source.write(f">a\n{protein(100)}\n".encode())
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("cache/.*.building/pretrain/train.arrow")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(tmp_path.glob("cache/.*.building"))
        process.send_signal(number)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(BrokenPipeError):  # another thread may have taken the signal: end the wait of the main one
                source.write(f">b\n{protein(100)}\n".encode())
            time.sleep(0.05)
        assert process.poll() not in (None, 0)
    assert not list((tmp_path / "cache").iterdir())
