"""Calls that are made one after another in a thread of their own, and that nothing waits for long for."""

import atexit
import queue
import sys
import threading
import time
from collections.abc import Callable

from proteinlm.errors import first_line

PATIENCE = 10.0
"""Seconds that a process waits at its end for all calls that are still to be made."""
WAITING = 10_000
"""Calls that may wait; what comes while they do is dropped."""

_open: list["Background"] = []


class Background:
    """A queue of calls and the thread that makes them.

    The first call that fails is the last one made, and a line says so. One that hangs holds up the others, never the
    caller: a service that is told about a run must not be able to stop or slow it. `give_up` ends what it leaves behind.
    """

    def __init__(self, what: str, give_up: Callable[[], object] = lambda: None) -> None:
        self.what, self.give_up = what, give_up
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._over = self._told = False
        self._thread = threading.Thread(target=self._work, name=what, daemon=True)
        self._thread.start()
        _open.append(self)

    def call(self, action: Callable[[], object]) -> None:
        """Make a call some time soon, after those before it."""
        if self._over:
            return
        try:
            self._calls.put_nowait(action)
        except queue.Full:
            if not self._told:
                self._told = True
                print(f"warning: {self.what} does not keep up; it misses some of this run", file=sys.stderr)

    def close(self) -> None:
        """Take no more calls; those that wait are still made."""
        if not self._over:
            self._over = True
            if not self._calls.full():  # full, it hangs: the thread ends with the process
                self._calls.put_nowait(None)

    def _work(self) -> None:
        while (action := self._calls.get()) is not None:
            try:
                action()
            except BaseException as error:  # a client may call sys.exit
                self._over = True
                print(f"warning: {self.what} failed, the run goes on without it: {first_line(error)}", file=sys.stderr)
                return

    def join(self, seconds: float) -> bool:
        """Wait for the calls, but not longer; whether they were made."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@atexit.register
def finish() -> None:
    """Wait for all that was called, `PATIENCE` seconds at most, and say what was given up on."""
    until = time.monotonic() + PATIENCE
    for each in _open:
        each.close()
        if not each.join(max(0.0, until - time.monotonic())):
            print(f"warning: {each.what} did not answer; the run is complete without it", file=sys.stderr)
            each.give_up()
    _open.clear()


def finish_first() -> None:
    """Let `finish` come before what others have asked for at the end of the process until now."""
    atexit.unregister(finish)
    atexit.register(finish)
