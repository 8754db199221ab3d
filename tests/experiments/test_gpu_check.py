"""The check of a GPU runs whole on a CPU, finds what is wrong, and keeps what it has found when a part dies."""

import json
import multiprocessing
import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.gpu_check import __main__ as check
from experiments.gpu_check import correctness, speed
from experiments.gpu_check.record import DONE, Finding, Needs, Outcome
from experiments.gpu_check.sizes import tiny
from proteinlm.errors import InputError
from proteinlm.models import attention
from tests.runs import ROOT

LACKING = ("fp8", "CUDA graphs")
"""Parts that need what a CPU, or an installation without extras, has not."""
FEW = replace(tiny(), run=replace(tiny().run, hidden_size=16))


@pytest.mark.parametrize("part", check.PARTS)
def test_each_part_runs_whole_and_finds_nothing_wrong(part: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speed.timed, "TIMED", 2)

    def run() -> None:
        findings: list[Finding] = []
        with suppress(Needs) if part in LACKING else nullcontext():
            findings.extend(check.PARTS[part][0](FEW))
        assert findings or part == "fp8"
        assert [finding for finding in findings if finding.fails] == []

    if part == "resumed":  # FSDP2 makes a process group, which would stay with the tests that come after
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(240)
        assert process.exitcode == 0
    else:
        run()


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch):
    true = attention._attend_by_runs
    monkeypatch.setattr(attention, "_attend_by_runs", lambda *given: 1.05 * true(*given))
    assert any(finding.fails for finding in correctness.attention(FEW))


def test_a_step_with_another_gradient_is_found(monkeypatch: pytest.MonkeyPatch):
    forward = correctness.Ours.forward

    def forgetful(model: correctness.Ours, batch: correctness.Masked) -> torch.Tensor:
        loss = forward(model, batch)
        return 2 * loss if torch.is_autocast_enabled("cpu") else loss

    monkeypatch.setattr(correctness.Ours, "forward", forgetful)
    failing = [finding.what for finding in correctness.training_step(FEW) if finding.fails]
    assert failing
    assert all(what.startswith("bf16-mixed") for what in failing)


def test_not_a_number_fails_and_a_figure_without_a_bound_does_not():
    assert Finding("", float("nan"), most=1.0).fails
    assert not Finding("", float("nan")).fails
    assert Outcome("", DONE, 1.0, [Finding("", 2.0, most=1.0)]).fails
    assert Outcome("", "killed by signal 9", 1.0).fails


def dying(part: str, findings: Path, small: bool) -> list[str]:
    """The command of a part that finds one number, begins to write another, and is killed."""
    line = json.dumps(Finding("found", 1.0)._asdict())
    return [
        sys.executable,
        "-c",
        f"open({str(findings)!r}, 'w').write({line!r} + chr(10) + '{{'); import os; os.abort()",
    ]


def quick(part: str, findings: Path, small: bool) -> list[str]:
    return [sys.executable, "-c", f"print({part!r})"]


@pytest.mark.parametrize("killed", check.PARTS)
def test_what_a_killed_part_had_found_is_kept(killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "command_of", lambda part, *given: (dying if part == killed else quick)(part, *given))
    assert check.main(["--tiny", "--output", str(tmp_path)]) == 1
    parts = {part["part"]: part for part in json.loads((tmp_path / "gpu_check.json").read_text())["parts"]}
    assert {name for name, part in parts.items() if part["ended"] == DONE} == {*check.PARTS} - {killed}
    assert parts[killed]["ended"] == "killed by signal 6"
    assert [finding["what"] for finding in parts[killed]["findings"]] == ["found"]
    assert f"| {killed} | killed by signal 6 |" in (tmp_path / "gpu_check.md").read_text()


def test_a_part_that_hangs_is_stopped_and_no_part_starts_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hanging = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(check, "command_of", lambda *given: hanging)
    assert check.main(["--tiny", "--seconds", "0.5", "--output", str(tmp_path)]) == 1
    first, *others = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert first["ended"].startswith("stopped after")
    assert {part["ended"] for part in others} == {"no time left"}


def test_a_part_that_lacks_what_it_needs_is_not_run_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "torchao.py").write_text("raise ModuleNotFoundError('No module named torchao')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    assert check.main(["--tiny", "--part", "fp8", "--output", str(tmp_path)]) == 0
    lacking = "not run: train.fp8=true needs torchao: pip install 'proteinlm[fp8]'"
    assert json.loads((tmp_path / "gpu_check.json").read_text())["parts"][0]["ended"] == lacking
    assert f"| fp8 | {lacking} |" in capsys.readouterr().out


def test_it_needs_no_hydra_wandb_fairscale_or_lmdb(tmp_path: Path):
    for name in ("hydra", "wandb", "fairscale", "lmdb"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    findings = tmp_path / "findings.jsonl"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = check.command_of("training step", findings, small=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "bf16-mixed: relative error of the loss" in findings.read_text()


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="finds no CUDA device"):
        check.main(["--output", str(tmp_path)])
