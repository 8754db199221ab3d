"""Each example runs as it is, and what it prints is what its first lines promise: the model knows something."""

import contextlib
import io
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

from tests.runs import ROOT

EXAMPLES = ROOT / "examples"


@cache
def printed(name: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return output.getvalue()


def number(pattern: str, text: str) -> float:
    """The number that `pattern` has in its group."""
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_embeddings_find_the_relatives():
    text = printed("embed.py")
    pairs = re.findall(r"^(\S.*?) +is nearest to (\S.*?) +\(", text, re.MULTILINE)
    assert {("haemoglobin alpha", "haemoglobin beta"), ("ubiquitin", "NEDD8"), ("NEDD8", "ubiquitin")} <= set(pairs)
    assert len(pairs) == 6


def test_a_probe_of_embeddings_beats_the_residue_alone_which_beats_chance():
    text = printed("probe.py")
    commonest, alone, embedded = re.findall(r"0\.\d{3}", text)
    assert float(commonest) + 0.1 < float(alone) < float(embedded) - 0.05


def test_variants_are_scored_lowest_in_the_loop_that_binds_the_nucleotide():
    text = printed("variant_effects.py")
    places = re.findall(r"([A-Z]\d+) -", text.split("least tolerant:")[1].splitlines()[0])
    assert {"G7", "G10"} <= set(places[:4])
    assert number(r"loop ([-+]\d\.\d+)", text) < number(r"whole protein ([-+]\d\.\d+)", text) - 0.3


def test_attention_has_more_contacts_than_chance():
    text = printed("contacts.py")
    assert number(r"attention (0\.\d+),", text) > 1.3 * number(r"chance (0\.\d+)", text)


def test_a_task_that_is_added_learns():
    text = printed("add_a_task.py")
    assert number(r"head: (-?0\.\d+)", text) > 0.4


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_tested(path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert f'printed("{path.name}")' in Path(__file__).read_text()
