"""Ends a process in good order on SIGTERM, SIGINT or SIGHUP: work saved, one line, exit status 128 + signal.

An entry point calls `install` before it imports anything large. From then on a first signal raises `Stopped` wherever the
main thread is, because at most times there is nothing to save. Inside `deferred` it is only noted: who is inside asks
`stop_requested` where it can stop without loss. Training begins to defer with its first step. The entry point prints the
message of a `Stopped`, if it has one, and lets the exception end the process. A second signal ends the process at once.

Imports no torch.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GOES_ON = "the same command goes on"
REPEAT_SECONDS = 1.0
"""Signals this soon after the first are the same one: a terminal signals a whole group, whose members pass it on."""

_requested: int | None = None
_requested_at = 0.0
_deferred = False
_blocks = 0  # of `deferrable` that this process is inside of


class Stopped(SystemExit):
    """The end of a process that a signal asked to stop; its exit status is 128 + `signal`.

    `message` is the line for standard error; an empty one means that another process has printed it.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(signal, message)
        self.signal, self.message = signal, message
        self.code = 128 + signal

    def __str__(self) -> str:
        return self.message


def install() -> None:
    """Answer the signals from now on; harmless when called again.

    A signal that is ignored stays ignored (``nohup``), and one that another handler answers stays with it (a job on Slurm).
    Only the main thread can install handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _answer)


def stop_requested() -> int | None:
    """The signal that has asked this process to stop, or None."""
    return _requested


def request_stop(number: int, frame: FrameType | None = None) -> None:
    """Note that the process should stop because of signal `number`. Can be a signal's handler itself."""
    global _requested, _requested_at
    if _requested is None:
        _requested, _requested_at = number, time.monotonic()


@contextmanager
def deferrable() -> Iterator[None]:
    """Answer signals at once until something inside the block calls `defer`, and only note them from there to its end.

    Raises `Stopped` at the end of the block if a signal was noted and the block has not raised by itself.
    """
    global _deferred, _blocks
    before = _deferred
    _blocks += 1
    try:
        yield
    finally:
        _deferred = before
        _blocks -= 1
    if _requested is not None and _requested in SIGNALS and not _deferred:
        raise Stopped(_requested, f"stopped after the last step; {GOES_ON}")


def defer() -> None:
    """Only note signals from here to the end of the innermost `deferrable` block; does nothing outside of one."""
    global _deferred
    _deferred = _deferred or _blocks > 0


@contextmanager
def deferred() -> Iterator[None]:
    """Only note signals in the whole block; else as `deferrable`."""
    with deferrable():
        defer()
        yield


def _answer(number: int, frame: FrameType | None) -> None:
    if _requested is not None:
        if time.monotonic() - _requested_at > REPEAT_SECONDS:
            os._exit(128 + number)
        return
    request_stop(number)
    if not _deferred:
        raise Stopped(number, f"stopped before the first step; {GOES_ON}")
