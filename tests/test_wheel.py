"""A wheel installs one package, and far from the repository it plans, composes and pretrains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, SMALL


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel of this checkout is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "site"
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
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"hatchling is not available: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("proteinlm-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "proteinlm", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_wheel_installs_one_package(site: Path):
    assert {entry.name for entry in site.iterdir() if not entry.name.endswith(".dist-info")} == {"proteinlm", "bin"}
    assert [script.name for script in (site / "bin").iterdir()] == ["proteinlm"]
    assert (site / "proteinlm/py.typed").is_file()


@pytest.mark.slow
def test_an_installed_wheel_composes_and_plans(site: Path, tmp_path: Path):
    planned = run(site, tmp_path, "plan", "--pfam", "--on", "h100", "experiment/table7=hidden-512-layer-32-head-8")
    assert "hidden-512-layer-32-head-8: 102," in planned.stdout
    for stage in ("pretrain", "finetune", "evaluate"):
        more = ["split=valid"] if stage == "evaluate" else []
        assert "step_tokens" in run(site, tmp_path, stage, "--cfg", "job", *more).stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("spread", [[], ["strategy=ddp", "strategy.devices=2"], ["-m"]])
def test_an_installed_wheel_pretrains_in_an_empty_folder(site: Path, tmp_path: Path, spread: list[str]):
    ended = run(site, tmp_path, "pretrain", *spread, *SMALL, "model=tiny")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs/single/tiny/pretrain/model/model.safetensors").exists()


@pytest.mark.slow
def test_what_needs_the_repository_says_so(site: Path, tmp_path: Path):
    ended = run(site, tmp_path, "sweep", "--profile", "smoke")
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: proteinlm sweep runs in the repository only: an installed package has no experiments\n"
    )
