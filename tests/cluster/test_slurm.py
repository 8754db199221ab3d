"""On a real Slurm, a sweep's jobs run over nodes, survive preemption, requeueing and their time limit with the result of
an undisturbed run, and are told by name when they die. `make test-cluster` starts one; elsewhere this is skipped.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.benchmark.records import load_all
from proteinlm import planner
from proteinlm.config import register_schema
from proteinlm.launch.slurm import states
from proteinlm.planner import cli
from proteinlm.records import results
from proteinlm.records.results import Result
from proteinlm.storage.atomic import own_directory
from proteinlm.training import pretraining
from tests.experiments.benchmarks import gym
from tests.parallel.test_strategies import losses
from tests.runs import ROOT, SMALL, composed, equal, weights

on_slurm = pytest.mark.skipif("PROTEINLM_TEST_CLUSTER" not in os.environ, reason="no Slurm here: make test-cluster")
CLUSTER = (
    "launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.signal_delay_s=20",
)
STEPS = 150
LONG = (*SMALL, "train.precision=fp32", f"train.tokens={STEPS * 2048}", "train.checkpoint_seconds=600")


def submit(output: Path, *overrides: str) -> subprocess.Popen[str]:
    """A sweep of pretraining runs, one for each seed of `overrides`; results go to ``output/single/tiny-<seed>``."""
    command = [sys.executable, "-m", "experiments.pretrain", "-m", *CLUSTER, f"output={output}", "name=tiny"]
    return subprocess.Popen(
        [*command, f"hydra.sweep.dir={output}/.sweeps", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(sweep: subprocess.Popen[str], output: Path) -> str:
    said, _ = sweep.communicate(timeout=600)
    logs = "\n".join(file.read_text() for file in sorted((output / ".slurm").rglob("*.err")))
    assert sweep.returncode == 0, f"{said}\n{logs}"
    return logs


def scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


def until(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def job_of(output: Path) -> str:
    """Number of the only job that was submitted there."""
    return next(folder.name for folder in (output / ".slurm").iterdir() if folder.name[0].isdigit())


def steps_done(output: Path) -> int:
    file = output / "single/tiny/pretrain/metrics.csv"
    lines = file.read_text().splitlines() if file.exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    pretraining.run(composed(*LONG, f"output={output}"))
    return output


def result(output: Path) -> Result:
    return results.load(output / "single/tiny/pretrain/result.json")


def assert_undisturbed(ours: Path, theirs: Path) -> None:
    assert equal(weights(ours), weights(theirs))
    assert result(ours).scores == result(theirs).scores
    assert losses(ours) == losses(theirs)


@on_slurm
@pytest.mark.parametrize("how", ["preempted", "requeued"])
def test_a_job_that_is_interrupted_ends_as_if_it_had_not_been(how: str, undisturbed: Path, tmp_path: Path):
    seconds = 600 if how == "preempted" else 0  # whether the signal must have saved what is there afterwards
    sweep = submit(tmp_path, *LONG, f"train.checkpoint_seconds={seconds}")
    until(lambda: steps_done(tmp_path) >= 20)
    job = job_of(tmp_path)
    if how == "preempted":
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
    else:
        scontrol("requeue", job)
    logs = finish(sweep, tmp_path)
    begun = [line for line in logs.splitlines() if "going on after step" in line]
    assert len(begun) == 1
    assert int(begun[0].rsplit(" ", 1)[1]) >= 20
    assert_undisturbed(tmp_path, undisturbed)


@on_slurm
def test_a_job_whose_time_is_up_goes_on(tmp_path: Path):
    longer = (*LONG, f"train.tokens={4 * STEPS * 2048}")
    sweep = submit(tmp_path / "limited", *longer, "hydra.launcher.timeout_min=1")
    pretraining.run(composed(*longer, f"output={tmp_path / 'unlimited'}"))
    assert "going on after step" in finish(sweep, tmp_path / "limited")
    assert_undisturbed(tmp_path / "limited", tmp_path / "unlimited")


@on_slurm
def test_all_rows_of_the_table(tmp_path: Path):
    command = [sys.executable, "-m", "experiments.sweep", "--profile", "smoke", "--launcher", "slurm"]
    ended = subprocess.run(
        [*command, "--output", str(tmp_path), "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list(tmp_path.rglob("pretrain/result.json"))) == 10


@on_slurm
def test_the_assays_of_a_benchmark_are_shared_by_jobs(tmp_path: Path):
    gym(tmp_path, *(f"assay{number}" for number in range(5)))
    command = [
        sys.executable,
        "-m",
        "experiments.benchmark",
        "-m",
        "proteingym/substitutions",
        "part=1/2,2/2",
        *CLUSTER,
    ]
    words = [
        f"root={tmp_path}",
        f"output={tmp_path}",
        f"hydra.sweep.dir={tmp_path}/.sweeps",
        "method=wildtype_marginals",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the second time nothing is left to do, and the averages are there for certain
        ended = subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    until(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout)
    logs = [file.read_text() for file in sorted((tmp_path / ".slurm").rglob("*.out"))]
    scored = [re.findall(r"^\[\d/\d\] (\w+):", log, re.MULTILINE) for log in logs]
    assert sorted(map(sorted, filter(None, scored))) == [["assay0", "assay2", "assay4"], ["assay1", "assay3"]]
    (record,) = load_all(tmp_path / "benchmarks")
    assert record.counts["test"] == 5


@on_slurm
def test_two_nodes(undisturbed: Path, tmp_path: Path):
    finish(submit(tmp_path, *LONG, "strategy=fsdp", "strategy.devices=1", "strategy.nodes=2"), tmp_path)
    assert result(tmp_path).processes == 2
    for step in range(1, 11):  # later, this learning rate makes much of rounding
        name = (str(step), "train/loss")
        assert losses(tmp_path)[name] == pytest.approx(losses(undisturbed)[name], abs=1e-4), name


@on_slurm
def test_a_job_that_dies_is_named_and_the_others_finish(tmp_path: Path):
    sweep = submit(tmp_path, *LONG, "seed=0,1", "name=tiny-${seed}")
    until(lambda: (tmp_path / "single/tiny-0/pretrain/stamp.json").exists())
    job = next(folder.name for folder in (tmp_path / ".slurm").iterdir() if folder.name.endswith("_0"))
    subprocess.run(["scancel", "--signal=KILL", job], check=True)
    said, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 2
    failures = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 1
    assert "seed=0" in failures[0]
    assert job in failures[0]
    assert (tmp_path / "single/tiny-1/pretrain/result.json").exists()


@on_slurm
def test_the_process_that_fails_ends_the_others(tmp_path: Path):
    with own_directory(tmp_path / "single/tiny/pretrain", "a test"):  # which the first process alone looks for
        sweep = submit(tmp_path, *LONG, "strategy=ddp", "strategy.devices=1", "strategy.nodes=2")
        said, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 2
    assert "failed: " in said
    assert any("is already running there" in file.read_text() for file in (tmp_path / ".slurm").rglob("*.err"))


def test_the_largest_row_on_16_nodes():
    overrides = (
        "experiment/table7=hidden-3072-layer-24-head-16",
        "profile=paper",
        "strategy=hsdp",
        "strategy.devices=8",
        "strategy.nodes=16",
        "train.micro_batch_tokens=2176",
    )
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launcher = compose("pretrain", ["launcher=slurm", *overrides], return_hydra_config=True).hydra.launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (16, 8, 8)
    made = planner.check(cli.run_config(list(overrides)), planner.PFAM, planner.HARDWARE["h100"])
    assert made.config.strategy.replica_count == 16
    assert made.config.strategy.shards == 8


def test_states_are_read_from_scontrol():
    printed = (
        "JobId=3 JobName=x JobState=COMPLETED Reason=None NodeList=one\n"
        "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=x JobState=RUNNING NodeList=two\n"
        "JobId=9 ArrayJobId=7 ArrayTaskId=1 JobName=x JobState=CONFIGURING NodeList=two\n"
        "JobId=7 ArrayJobId=7 ArrayTaskId=2-3,5%2 JobName=x JobState=PENDING NodeList=\n"
    )
    assert {job: state["State"] for job, state in states(printed).items()} == {
        "3": "COMPLETED",
        "7_0": "RUNNING",
        "7_1": "RUNNING",
        "7_2": "PENDING",
        "7_3": "PENDING",
        "7_5": "PENDING",
    }
    assert states("No jobs in the system\n") == {}
