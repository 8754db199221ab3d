"""A precision is what was asked for, and a slow one is said to be slow, once; memory that was freed is used again."""

import ctypes
import resource

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_a_step_takes_the_memory_that_the_one_before_it_freed(monkeypatch: pytest.MonkeyPatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)

    def faults_of_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(12 * 2**20)  # 48 MB, which glibc gives back by default
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    device.keep_freed_memory()
    faults_of_step()
    assert max(faults_of_step() for _ in range(3)) < 1000  # of 36,864 pages
