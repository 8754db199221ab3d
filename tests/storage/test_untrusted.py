"""JSON and YAML that others wrote are plain values of bounded size and depth, or one line that names the file."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proteinlm import checkpoint
from proteinlm.config import ModelConfig, OptimConfig, StrategyConfig, TrainConfig
from proteinlm.errors import InputError
from proteinlm.records import results
from proteinlm.storage import untrusted
from proteinlm.storage.untrusted import read_json, read_yaml

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
HOSTILE = {
    "an alias": BOMB,
    "nested more than 32 deep": "a: " + "[" * 40 + "]" * 40,
    "nested more than 32 deep ": "[" * 100_000,
    "not readable as YAML": "a: [1, 2",
    "not readable as YAML ": "!!python/object/apply:os.system ['touch executed']",
    "not readable as YAML  ": "a: ${b}",
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_yaml_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(HOSTILE[message])
    with pytest.raises(InputError, match=message.strip()) as error:
        read_yaml(tmp_path / "config.yaml")
    assert str(error.value).startswith(f"{tmp_path}/config.yaml: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(untrusted, "MAX_JSON", 100)
    monkeypatch.setattr(untrusted, "MAX_YAML", 100)
    (tmp_path / "file").write_text(json.dumps(["x" * 200]))
    with pytest.raises(ValueError, match="bytes, more than 100"):
        read_json(tmp_path / "file")
    with pytest.raises(InputError, match="bytes, more than 100"):
        read_yaml(tmp_path / "file")


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "{", ""])
def test_deep_or_broken_json_where_the_suite_reads_some(tmp_path: Path, content: str):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match="not a result record"):
        results.load(tmp_path / "result.json")
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="not the shape of a model"):
        checkpoint.load_weights(tmp_path)


numbers = st.integers(-(2**40), 2**40) | st.floats()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300) | plain.map(lambda value: json.dumps(value).encode()), st.integers(0, 300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_what_json_says_or_refused(tmp_path: Path, content: bytes, end: int):
    file = tmp_path / "file"
    for part in (content, content[:end]):
        file.write_bytes(part)
        try:
            expected = json.loads(part)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                read_json(file)
        else:
            assert repr(read_json(file)) == repr(expected)


@given(st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_plain_yaml_or_one_line_that_names_the_file(tmp_path: Path, content: bytes):
    file = tmp_path / "file"
    file.write_bytes(content)
    refusal, value = refusal_of(lambda: read_yaml(file))
    if refusal is None:
        assert_plain(value)
    else:
        kinds = r"not readable as YAML: .+|line \d+: (an alias, which no config needs|nested more than 32 deep)"
        assert re.fullmatch(rf"{re.escape(str(file))}: ({kinds})", refusal)


def refusal_of(make: Callable[[], Any]) -> tuple[str | None, Any]:
    """The message of an `InputError`, or what was made."""
    try:
        return None, make()
    except InputError as error:
        return str(error), None


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            assert_plain(key)
            assert_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_plain(inner)
    else:
        assert type(value) in (str, int, float, bool, bytes, type(None))


words = st.text("abcdefgh_", min_size=1, max_size=6)
config_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(words, config_values, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_config_comes_back_as_it_was_written(tmp_path: Path, values: dict):
    (tmp_path / "file").write_text(yaml.safe_dump(values))
    assert read_yaml(tmp_path / "file") == values


KNOBS = {OptimConfig: "optim", TrainConfig: "train", StrategyConfig: "strategy", ModelConfig: "model"}


@given(st.lists(numbers, min_size=9, max_size=9), st.text(max_size=8))
@settings(deadline=None)
def test_any_values_make_a_config_or_name_the_knob(values: list, text: str):
    a, b, c, d, e, f, g, h, i = values
    for kind, knobs in (
        (OptimConfig, {"learning_rate": a, "min_learning_rate": b, "warmup_fraction": c, "max_grad_norm": d}),
        (TrainConfig, {"tokens": a, "step_tokens": b, "micro_batch_tokens": c, "validations": d, "nonfinite": text}),
        (StrategyConfig, {"name": text or "fsdp_tensor", "devices": a, "nodes": b, "tensor": c, "replicas": d}),
        (ModelConfig, {"hidden_size": e, "num_layers": f, "num_heads": g, "max_positions": h, "dropout": i}),
    ):
        refusal, made = refusal_of(partial(kind, **knobs))
        if refusal is None:
            assert repr({knob: getattr(made, knob) for knob in knobs}) == repr(knobs)
            continue
        named = [knob or "name" for knob in re.findall(rf"{KNOBS[kind]}(?:\.(\w+))?=", refusal)]
        assert any(f"={knobs[knob]}" in refusal for knob in named if knob in knobs), refusal
