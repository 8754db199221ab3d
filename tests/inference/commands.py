"""The command line, run in this process."""

import sys

import pytest

from proteinlm import cli


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``proteinlm <arguments>``."""
    from io import StringIO

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["proteinlm", *map(str, arguments)])
        patched.setattr(sys, "stdout", output := StringIO())
        patched.setattr(sys, "stderr", errors := StringIO())
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code, output.getvalue(), errors.getvalue()


def assert_refused(outcome: tuple[int, str, str], message: str) -> None:
    """One line on standard error, and code 2."""
    code, _, errors = outcome
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
