"""A first signal ends a process in good order with status 128 + signal, as soon as it may; a second one ends it at once."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proteinlm.launch import signals
from proteinlm.launch.signals import SIGNALS, Stopped
from tests.runs import ROOT


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(signals, "_requested", None)
    for number, default in zip(SIGNALS, (signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL), strict=True):
        signal.signal(number, default)
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_at_once(number: int):
    with pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert (stopped.value.code, stopped.value.signal) == (128 + number, number)
    assert "goes on" in str(stopped.value)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_a_block(number: int):
    reached = []
    with pytest.raises(Stopped) as stopped, signals.deferred():
        assert signals.stop_requested() is None
        with signals.deferred():
            os.kill(os.getpid(), number)
            assert signals.stop_requested() == number
        reached.append("the end of the outer block")
    assert stopped.value.code == 128 + number
    assert reached


def test_an_error_inside_a_block_is_not_hidden_by_the_signal():
    with pytest.raises(ValueError, match="the reason"), signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the reason")


def test_the_same_signal_from_a_terminal_and_from_a_parent_counts_once():
    with pytest.raises(Stopped) as stopped, signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.signal == signal.SIGINT


def test_handlers_of_others_stay(monkeypatch: pytest.MonkeyPatch):
    def of_another(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, of_another)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    assert signal.getsignal(signal.SIGTERM) is of_another
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_it_comes_whole_out_of_a_worker():
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "stopped after step 7")))
    assert (stopped.code, stopped.signal, stopped.message) == (143, signal.SIGTERM, "stopped after step 7")


SCRIPT = """
import os, signal, time
from proteinlm.launch import signals
signals.REPEAT_SECONDS = 0.0
signals.install()
with signals.deferred():
    os.kill(os.getpid(), signal.{first})
    time.sleep(0.01)
    {then}
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        ("SIGTERM", "", 143),
        ("SIGINT", "", 130),
        ("SIGHUP", "", 129),
        ("SIGTERM", "os.kill(os.getpid(), signal.SIGINT); print('still there', flush=True)", 130),
    ],
)
def test_the_exit_status_of_a_process(first: str, then: str, status: int):
    script = SCRIPT.format(first=first, then=then)
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")
