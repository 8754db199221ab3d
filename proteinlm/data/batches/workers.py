"""Lets the workers of a loader live as long as the process that they work for, however they are started."""

import multiprocessing
import os
import signal
import threading

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def outlive_signals(worker: int) -> None:
    """Let only the signals of the process that reads end this worker, and its end.

    A terminal, ``timeout`` and cluster managers signal all processes of a run. The reader still finishes its step then, and
    fails if a worker that owes it a batch has ended. The worker's parent in the operating system may be a fork server (the
    default of Python 3.14 on Linux), which sends no signals and, with its workers, outlives a reader that is killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    reader = multiprocessing.parent_process()
    assert reader is not None

    def obey() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != reader.pid:
            pass
        os._exit(0)

    def follow() -> None:
        reader.join()
        os._exit(0)

    for wait in (obey, follow):
        threading.Thread(target=wait, daemon=True).start()
