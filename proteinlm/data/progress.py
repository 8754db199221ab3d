"""A progress bar for what takes longer than two seconds, if somebody is there to see it."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE = 2.0  # seconds


@final
class Bar:
    """Bytes or steps done out of `total`, shown on standard error once it took two seconds, if that is a terminal."""

    def __init__(self, title: str, total: int | None, *, of_bytes: bool = True) -> None:
        self.title, self.total, self.done, self.of_bytes = title, total, 0, of_bytes
        self.shown_from = time.monotonic() + _PATIENCE if sys.stderr.isatty() else float("inf")
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.progress is not None:
            self.progress.stop()

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self.done += count
        if time.monotonic() < self.shown_from:
            return
        if self.progress is None:
            self.progress = _started(self.title, self.total, self.of_bytes)
        self.progress.update(self.progress.task_ids[0], completed=self.done)


def _started(title: str, total: int | None, of_bytes: bool) -> "Progress":
    from rich import progress as rich
    from rich.console import Console

    counted = (rich.DownloadColumn(), rich.TransferSpeedColumn()) if of_bytes else (rich.MofNCompleteColumn(),)
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), *counted, rich.TimeRemainingColumn())
    progress = rich.Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(title, total=total)
    progress.start()
    return progress
