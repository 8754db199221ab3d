"""Text knobs hold the characters as typed, in sweeps and children too; else one line shows how to quote them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proteinlm.config import CsvDataConfig, CustomTaskConfig, FinetuneConfig, StageConfig
from proteinlm.errors import InputError
from proteinlm.launch import entry, words
from tests.runs import ROOT

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
EXAMPLES = (
    "1_0",
    "1e5",
    "2026_11_28",
    "null",
    "true",
    "a=b",
    "~a",
    "(",
    "a (1)",
    " a ",
    "[1,2]",
    "{a:1}",
    "\\",
    "a\\'",
)


def read(word: str) -> object:
    """What Hydra reads in a word."""
    return OverridesParser.create().parse_override(word).value()


def is_plain(text: str) -> bool:
    """Whether `text` is neither in quotes nor what Hydra has a meaning of its own for."""
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not in_quotes and "${" not in text and text != "???"


def with_examples(test: Callable[[str], None]) -> Callable[[str], None]:
    for text in EXAMPLES:
        test = example(text)(test)
    return test


@with_examples
@given(TEXT)
@settings(max_examples=300)
def test_a_text_knob_is_what_was_typed_or_the_line_shows_how(text: str):
    assume(is_plain(text))
    try:
        (word,) = words.prepare("finetune", [f"data.label={text}"])
    except InputError as error:
        (shown,) = shlex.split(str(error).partition("write ")[2])
        (word,) = words.prepare("finetune", [shown])
    assert read(word) == text
    assert words.prepare("finetune", [word]) == [word], "a child gets the word again"


@given(st.lists(TEXT.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
@settings(max_examples=200)
def test_a_multirun_sweeps_over_what_was_typed(texts: list[str]):
    assume(all(is_plain(text) and not set(text) & set(",()[]{}'\"\\") for text in texts))
    word, _ = words.prepare("finetune", [f"data.label={','.join(texts)}", "-m"])
    override = OverridesParser.create().parse_override(word)
    values = override.sweep_string_iterator() if override.is_sweep_override() else [word.partition("=")[2]]
    children = [words.prepare("finetune", [f"data.label={value}"])[0] for value in values]
    assert [read(child) for child in children] == texts


@given(TEXT)
@settings(max_examples=15, deadline=None)
def test_the_config_has_what_was_typed(text: str):
    assume(is_plain(text) and "," not in text and not text.startswith("~"))
    given = [f"model.path={text}", f"output={text}", "task=custom", f"data.csv={text}", "name=1_0", f"data.id={text}"]
    config = entry.compose("finetune", given)
    assert isinstance(config, FinetuneConfig)
    assert isinstance(config.data, CsvDataConfig)
    assert (config.name, config.output, config.data.csv, config.data.id) == ("1_0", text, text, text)
    assert vars(config.model)["path"] == text


def test_lists_of_text_and_the_tasks_of_a_row():
    config = entry.compose("finetune", ["model=tiny", "task=custom", "data.csv=x", "task.classes=[1_0, 1e5,'a,b']"])
    assert isinstance(config.task, CustomTaskConfig)
    assert config.task.classes == ["1_0", "1e5", "a,b"]
    assert words.prepare("row", ["finetune.contact.head=1_0"]) == ["finetune.contact.head='1_0'"]


def test_a_tilde_in_a_path_is_the_home_directory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert words.prepare("finetune", ["data.csv=~/a b.csv", "name=~/a"]) == [
        "data.csv='/home/me/a b.csv'",
        "name='~/a'",
    ]


def test_what_is_no_text_is_left_to_hydra():
    given = [
        "seed=1",
        "model=tiny",
        "train.tokens=1_000",
        "hydra.launcher.n_jobs=2",
        "optim.learning_rate=1e-3",
        "~task",
    ]
    assert words.prepare("pretrain", given) == given
    assert words.prepare("row", ["experiment/table7=glob(*)", "-m"]) == ["experiment/table7=glob(*)", "-m"]
    assert words.prepare("row", ["name=choice(1_0,b)", "-m"]) == ["name=choice('1_0','b')", "-m"]


@pytest.mark.parametrize(
    ("knob", "typed"), [("train.tokens", "1e6"), ("seed", "1.0"), ("train.step_tokens", "16.384e3")]
)
def test_whole_numbers_have_no_exponent(knob: str, typed: str):
    with pytest.raises(InputError, match=f"{knob}={typed} is not written as a whole number: write {knob}=") as error:
        words.prepare("pretrain", [f"{knob}={typed}"])
    assert read(str(error.value).partition("write ")[2]) == float(typed)


def test_every_text_knob_is_known():
    named = {
        name: kind
        for config in (StageConfig, *StageConfig.__subclasses__())
        for name, kind in get_type_hints(config).items()
        if kind is str
    }
    assert {"name", "group", "output", "hardware"} <= named.keys()
    for name in named:
        assert any(words.knob_types(config, (name,)) == {str} for config in words.CONFIGS.values())


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "train.tokens=(5",
            """error: 'train.tokens=(5' cannot be read: write a value with such characters in quotes""",
        ),
        ("seed=1,2", "error: seed=1,2 is several values: add -m to sweep over them\n"),
        (
            "name=a,b",
            """error: name=a,b is several values, for which -m is missing, or one: then write "name='a,b'"\n""",
        ),
    ],
)
def test_a_word_that_cannot_be_read_is_one_line(tmp_path: Path, word: str, line: str):
    command = [sys.executable, "-m", "proteinlm", "pretrain", word]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1
