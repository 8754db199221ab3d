"""The mutation run finds the line that no test holds, and makes of a module the slips that one would make by hand."""

import ast
import os
import sys
import tomllib
from pathlib import Path

import pytest

from tests import mutants

MODULE = '''
from math import ceil

LIMIT = 10


def within(values: list[int]) -> list[int]:
    """Those that are not above the limit."""
    return [value for value in values if value <= LIMIT]


def pages(lines: int) -> int:
    return max(1, ceil(lines / 50))
'''
TEST = """
from small import pages, within


def test_within():
    assert within([9, 10, 11]) == [9, 10]


def test_pages():
    assert pages(75) == 2
"""
EQUAL = """
[["small.py"]]
line = "return max(1, ceil(lines / 50))"
fault = "return max(2, ceil(lines / 50))"
why = "nobody has so few lines"

[["small.py"]]
line = "return 1"
fault = "return 2"
why = "the line was there once"
"""


def faults(source: str) -> list[str]:
    return [f"{mutant.before} -> {mutant.after}" for mutant in mutants.mutants(source)]


@pytest.mark.parametrize(
    ("source", "slips"),
    [
        ("a < b", ["a < b -> a <= b"]),
        ("x = 2 * y", ["2 * y -> 2 / y", "2 -> 3"]),
        ("share = 0.8", ["0.8 -> 0.4"]),
        ("search(x, side='left')", ["search(x, side='left') -> pass", "'left' -> 'right'"]),
        ("ok = not (a and b)", ["not (a and b) -> a and b", "a and b -> a or b"]),
        ("low = values.min()", ["values.min() -> values.max()"]),
        ("total += one", ["total += one -> total -= one"]),
        ("if ready(): go = 1", ["if ready(): -> if not ready():", "1 -> 2"]),
        ("def f(x: int = 1) -> 'int': 'A docstring.'", ["1 -> 2"]),
        ("assert x == 1\nraise ValueError(f'{x + 1}')", []),
    ],
)
def test_slips(source: str, slips: list[str]):
    assert faults(source) == slips


def test_each_mutant_has_one_fault_and_its_line():
    whole = ast.unparse(ast.parse(MODULE)).splitlines()
    for mutant in mutants.mutants(MODULE):
        changed = ast.unparse(mutant.tree).splitlines()
        assert sum(one != other for one, other in zip(whole, changed, strict=True)) == 1
        assert mutant.before in MODULE.splitlines()[mutant.line - 1]


def test_what_no_test_notices_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "small.py").write_text(MODULE)
    (tmp_path / "test_small.py").write_text(TEST)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delitem(os.environ, "PYTEST_ADDOPTS", raising=False)
    monkeypatch.setattr(mutants, "EQUAL", tmp_path / "equal.toml")
    mutants.EQUAL.write_text(EQUAL)
    verdict = mutants.examine("small.py", ("test_small.py",), line=13)
    assert verdict.survivors[0].fault == "return max(1, ceil(lines / 51))"
    assert (verdict.mutants, verdict.noticed, verdict.equal, len(verdict.survivors)) == (5, 3, 1, 1)
    printed = capsys.readouterr().out
    assert "small.py:13: 50  ->  51\n" in printed
    assert "equal.toml: small.py has no line 'return 1' any more that could become 'return 2'\n" in printed
    (tmp_path / "test_small.py").write_text(TEST.replace("== 2", "== 3"))
    with pytest.raises(RuntimeError, match=r"small\.py: test_small\.py fail without a fault"):
        mutants.examine("small.py", ("test_small.py",))


def test_modules_and_their_tests_are_there():
    for module, tests in mutants.TESTS.items():
        assert (mutants.ROOT / module).is_file(), module
        assert all((mutants.ROOT / test.removeprefix("--deselect=").partition("::")[0]).exists() for test in tests), (
            tests
        )


def test_each_fault_that_changes_nothing_has_its_reason():
    listed = tomllib.loads(mutants.EQUAL.read_text())
    assert set(listed) <= set(mutants.TESTS)
    for faults_of_module in listed.values():
        assert all(set(each) == {"line", "fault", "why"} and each["why"] for each in faults_of_module)
