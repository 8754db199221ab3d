"""A precision is what was asked for, and a slow one is said to be slow, once."""

import pytest
import torch

from proteinlm import device


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_without_instructions_for_it_is_said_to_be_slow(
    fast: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(device, "has_fast_bf16", lambda where: fast)
    device._warn_of_slow_bf16.cache_clear()
    cpu = torch.device("cpu")
    assert device.choose_precision(cpu, "fp32") == "fp32"
    assert device.choose_precision(cpu, "auto") == ("bf16-mixed" if fast else "fp32")
    assert not capsys.readouterr().err
    assert device.choose_precision(cpu, "bf16-mixed") == device.choose_precision(cpu, "bf16-mixed") == "bf16-mixed"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if fast else 1)
    assert fast or lines[0].startswith("warning: precision bf16-mixed is several times slower than fp32 on ")
