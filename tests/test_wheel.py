"""An installed wheel brings the configs along: it plans, and composes every entry point, far from the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT


@pytest.mark.slow
def test_an_installed_wheel_composes_and_plans(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if name.startswith(("proteinlm/", "experiments/", "conf/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"no hatchling to be had: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = tmp_path.glob("proteinlm-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def said(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = said("-c", "import proteinlm, experiments.pretrain as e; print(proteinlm.__file__, e.__file__)")
    assert where.count(str(target)) == 2
    code = "from proteinlm.cli import main; main()"
    planned = said("-c", code, "plan", "--pfam", "--on", "h100", "experiment/table7=hidden-512-layer-32-head-8")
    assert "hidden-512-layer-32-head-8: 102," in planned
    for entry in ("pretrain", "finetune", "evaluate", "row"):
        more = ["split=valid"] if entry == "evaluate" else []
        assert "step_tokens" in said("-m", f"experiments.{entry}", "--cfg", "job", *more)
