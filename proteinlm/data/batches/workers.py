"""Keeps the workers of a loader alive when a signal asks their whole process group to stop."""

import os
import signal
import threading

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def outlive_signals(worker: int) -> None:
    """Let only the parent's signals end this worker.

    A terminal, ``timeout`` and cluster managers signal all processes of a run. The parent still finishes its step then, and
    fails if a worker that owes it a batch has ended.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
