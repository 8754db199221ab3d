"""Prepare the words of a command line before Hydra parses them, so that text knobs hold the characters as typed.

Hydra turns ``name=1_0`` into the number 10 and stops at ``data.csv=a (1).csv``. The config's types say which knobs are
text: their values are put in quotes here, in which Hydra leaves every character alone. Imports no torch.
"""

import os
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from proteinlm.config import BenchmarkConfig, EvaluateConfig, FinetuneConfig, RowConfig, RunConfig
from proteinlm.errors import InputError

CONFIGS: dict[str, type] = {
    "pretrain": RunConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "row": RowConfig,
    "benchmark": BenchmarkConfig,
}
"""The type of each config under ``conf/``."""
PATHS = ("output", "data.root", "data.cache", "data.csv", "model.path", "root", "cache")
"""Knobs in which a leading ``~`` is the home directory: no shell replaces it after an equals sign."""
_WORD = re.compile(r"(\+{0,2})([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_FUNCTION = re.compile(r"\s*(choice|shuffle|sort|range|interval|glob|tag)\s*\((.*)\)\s*", re.DOTALL)
_EXPONENT = re.compile(r"[+-]?[\d_]*\.?[\d_]*[eE][+-]?\d+|[+-]?[\d_]+\.0*")


def prepare(name: str, words: list[str]) -> list[str]:
    """Put the values of text knobs in quotes; `words` are those of a command that composes ``conf/<name>.yaml``.

    Values in quotes, with ``${...}`` or ``???`` are left to Hydra, and of a multirun the functions that sweep; its commas
    separate values. Raises `InputError` where a value can be read in two ways, with the words that are read in one.
    """
    sweeping = bool({"-m", "--multirun"} & set(words))
    return [_prepared(CONFIGS[name], word, sweeping) for word in words]


def quote(value: str) -> str:
    """Put `value` in quotes, in which Hydra leaves every character alone."""
    return QuotedString(value, Quote.single).with_quotes()


def advice(word: str) -> str:
    """How to write a word that Hydra's grammar cannot read."""
    key, _, value = word.partition("=")
    return f"{word!r} cannot be read: write a value with such characters in quotes, as in {_in_shell(key, value)}"


def _prepared(config: type, word: str, sweeping: bool) -> str:
    match = _WORD.fullmatch(word)
    if not match:
        return word
    plus, knob, value = match.groups()
    kinds = knob_types(config, tuple(knob.split(".")))
    if kinds == {int}:
        _refuse_exponent(knob, value)
    is_list = list[str] in kinds and value.lstrip().startswith("[")
    if not (is_list or kinds == {str}) or value in ("", "???") or "${" in value:
        return word
    if sweeping:
        value = _each_quoted(knob, value, is_list)
    elif is_list:
        value = _list_quoted(value)
    else:
        value = _text_quoted(knob, value)
    return f"{plus}{knob}={value}"


@cache
def knob_types(config: type, path: tuple[str, ...]) -> frozenset[Any]:
    """The types that the knob at `path` has in `config` and the subclasses of its parts; none if there is no such knob."""
    found: set[Any] = set()
    for part in (config, *_subclasses(config)):
        hints = typing.get_type_hints(part)
        if path[0] not in {field.name for field in fields(part)}:
            continue
        kind, rest = hints[path[0]], path[1:]
        if rest and typing.get_origin(kind) is dict:
            kind, rest = typing.get_args(kind)[1], rest[1:]
        if not rest:
            found.add(kind)
        elif is_dataclass(kind):
            found |= knob_types(typing.cast(type, kind), rest)
    return frozenset(found)


def _subclasses(config: type) -> Iterator[type]:
    for subclass in config.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _text_quoted(knob: str, value: str) -> str:
    if _QUOTED.fullmatch(value):
        return value
    if len(_split(value)) > 1 or _FUNCTION.fullmatch(value):
        raise InputError(
            f"{knob}={value} is several values, for which -m is missing, or one: then write {_in_shell(knob, value)}"
        )
    return quote(os.path.expanduser(value) if knob in PATHS else value)


def _each_quoted(knob: str, value: str, is_list: bool) -> str:
    """The values that a multirun sweeps over, each in quotes."""
    function = _FUNCTION.fullmatch(value)
    if function and function[1] == "choice":
        return f"choice({_each_quoted(knob, function[2], is_list)})"
    if function or "\\," in value:
        return value
    pieces = [piece.strip() for piece in _split(value)] if "," in value else [value]
    return ",".join(_list_quoted(piece) if is_list else _text_quoted(knob, piece) for piece in pieces)


def _list_quoted(value: str) -> str:
    inner = value.strip()
    if not (inner.startswith("[") and inner.endswith("]")) or not inner[1:-1].strip():
        return value
    pieces = [piece.strip() for piece in _split(inner[1:-1])]
    return f"[{','.join(piece if _QUOTED.fullmatch(piece) else quote(piece) for piece in pieces)}]"


def _split(value: str) -> list[str]:
    """`value` at its commas, but for those in quotes or brackets that close."""
    pieces, depth, place = [""], 0, 0
    closed = _balanced(value)
    while place < len(value):
        quotation = _QUOTED.match(value, place)
        part = quotation[0] if quotation else value[place]
        if closed and not quotation:
            depth += (part in "([{") - (part in ")]}")
        if part == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += part
        place += len(part)
    return pieces


def _balanced(value: str) -> bool:
    depth = 0
    for letter in _QUOTED.sub("", value):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _refuse_exponent(knob: str, value: str) -> None:
    if _EXPONENT.fullmatch(value):
        try:
            number = float(value)
        except ValueError:
            return
        if number.is_integer():
            raise InputError(f"{knob}={value} is not written as a whole number: write {knob}={int(number):_}")


def _in_shell(key: str, value: str) -> str:
    """The word with its value in quotes for Hydra, and in quotes for the shell."""
    if "'" in value or any(letter in value for letter in '"$`\\!'):
        word = f"{key}={quote(value)}"
        return "'" + word.replace("'", "'\\''") + "'"
    return f"\"{key}='{value}'\""
