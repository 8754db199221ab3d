"""A record's name gives a file's that every file system takes and that lies where it was asked for."""

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from proteinlm.storage.names import LONGEST, file_name, shortened


@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
@example("../../secret")
@example("..")
@example("/")
@example("\0")
@example("é" * 200)
def test_a_name_stays_in_its_directory(name: str):
    found = file_name(name)
    assert Path("/home", found).parent == Path("/home")
    assert not found.startswith(".")
    assert not {"/", "\0"} & {*found}
    assert 0 < len(found.encode()) <= LONGEST + 13


def test_names_that_files_can_have_are_kept():
    for name in ("NP_000001.2", "sp|P12345|A_B", "1a3a_1_A", "é" * 100):
        assert file_name(name) == name
    assert file_name("Q8XYZ1_9BACT/25-180") == "Q8XYZ1_9BACT_25-180"


def test_long_names_stay_apart():
    first, second = (shortened("a" * 300 + end) for end in "bc")
    assert first != second
    assert first[:LONGEST] == second[:LONGEST] == "a" * LONGEST
