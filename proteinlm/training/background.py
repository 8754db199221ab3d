"""Makes calls one after another in a thread of their own, so that a slow or broken service does not hold up a run."""

import atexit
import queue
import sys
import threading
import time
from collections.abc import Callable

from proteinlm.errors import first_line

PATIENCE = 10.0
"""Seconds that a process waits at its end for the remaining calls."""
WAITING = 10_000
"""Calls that may wait at a time; further calls are dropped."""

_open: list["Background"] = []


class Background:
    """A queue of calls and the thread that makes them.

    After the first call that fails no more are made, and a line says so. A call that hangs delays later calls but never the
    caller: a service that is told about a run cannot stop or slow it. `give_up` ends what the service leaves behind.
    """

    def __init__(self, what: str, give_up: Callable[[], object] = lambda: None) -> None:
        self.what, self.give_up = what, give_up
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._over = self._told = False
        self._thread = threading.Thread(target=self._work, name=what, daemon=True)
        self._thread.start()
        _open.append(self)

    def call(self, action: Callable[[], object]) -> None:
        """Queue a call, which is made after those before it."""
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
        """Wait up to `seconds` for the calls; returns whether all were made."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@atexit.register
def finish() -> None:
    """Wait for all queued calls, `PATIENCE` seconds at most, and name the services that did not answer."""
    until = time.monotonic() + PATIENCE
    for each in _open:
        each.close()
        if not each.join(max(0.0, until - time.monotonic())):
            print(f"warning: {each.what} did not answer; the run is complete without it", file=sys.stderr)
            each.give_up()
    _open.clear()


def finish_first() -> None:
    """Run `finish` before everything that is registered for the end of the process so far."""
    atexit.unregister(finish)
    atexit.register(finish)
