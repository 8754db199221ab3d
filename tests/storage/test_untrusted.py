"""JSON and YAML that others wrote are plain values of bounded size and depth, or one line that names the file."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
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


@given(st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, content: bytes):
    (tmp_path / "file").write_bytes(content)
    with suppress(ValueError):
        read_json(tmp_path / "file")
    with suppress(InputError):
        read_yaml(tmp_path / "file")


@given(st.lists(numbers, min_size=9, max_size=9), st.text(max_size=8))
@settings(deadline=None)
def test_any_values_make_a_config_or_name_the_knob(values: list, text: str):
    a, b, c, d, e, f, g, h, i = values
    makers = (
        lambda: OptimConfig(learning_rate=a, min_learning_rate=b, warmup_fraction=c, max_grad_norm=d),
        lambda: TrainConfig(tokens=a, step_tokens=b, micro_batch_tokens=c, validations=d, nonfinite=text),
        lambda: StrategyConfig(name=text or "fsdp_tensor", devices=a, nodes=b, tensor=c, replicas=d),
        lambda: ModelConfig(e, f, g, max_positions=h, dropout=i),
    )
    for make in makers:
        with suppress(InputError):
            make()
