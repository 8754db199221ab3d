"""A plugin that lists the tests that take most processor time: ``pytest -p tests.processor_time tests/parallel``.

Unlike ``--durations``, it counts the processes that a test starts and waits for, and nothing that others do on the machine.
It needs all tests in one process, without ``-n``.
"""

import os
from collections.abc import Iterator

import pytest

SHOWN = 10
spent: list[tuple[float, str, str]] = []
"""The seconds of each part of each test, the part (setup, call or teardown), and the test."""


def _seconds() -> float:
    return sum(os.times()[:4])  # of this process and of its children, in the user's code and in the kernel's


def _timed(part: str, item: pytest.Item) -> Iterator[None]:
    began = _seconds()
    yield
    spent.append((_seconds() - began, part, item.nodeid))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    yield from _timed("setup", item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield from _timed("call", item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield from _timed("teardown", item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section(f"most processor time, of {_seconds():.0f} s")
    for seconds, part, test in sorted(spent, reverse=True)[:SHOWN]:
        terminalreporter.write_line(f"{seconds:.2f}s {part:8} {test}")
