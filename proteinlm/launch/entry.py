"""From a composed config to a running group of processes, and from an error to one line.

Lightning and wandb settle once per process how many ranks there are and which run they belong to, so a process trains
one job: the process that sweeps only composes. Imports no torch.
"""

import functools
import gc
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proteinlm.errors import InputError

if TYPE_CHECKING:
    from proteinlm.config import StrategyConfig

CONF = next(
    (place for place in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if place.is_dir()),
    Path(__file__).parents[2] / "conf",
)
"""The configs: in the package where it was installed from a wheel, else beside it."""
PARENT = "PROTEINLM_PARENT"
"""Environment variable: the process at whose end its descendants end too."""


def entry(main: Callable[[], None]) -> None:
    """Run a Hydra `main`; every error a user can cause is one line on stderr and exit code 2."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error itself, in its own way
    follow_parent()
    if shutil.which("scontrol"):
        from proteinlm.launch import slurm

        slurm.adapt()
    try:
        main()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        fail(_in_one_line(error))


@contextmanager
def importing() -> Iterator[None]:
    """Import much without searching it for garbage, now and ever after: a fifth less time until a stage begins."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def hydra_is_sweeping() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode is RunMode.MULTIRUN


def reported(main: Callable[..., None]) -> Callable[..., None]:
    """Let a user's error end a single run in one line; in a sweep Hydra must see it, to go on with the other jobs.

    A job of several processes must end with the first that fails: Hydra would keep the error and let the others wait.
    """

    @functools.wraps(main)
    def wrapper(composed: Any) -> None:
        try:
            main(composed)
        except Exception as error:
            if in_slurm_job() and slurm_tasks() > 1:
                print(
                    f"error: {error}" if isinstance(error, InputError) else traceback.format_exc(),
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(2)  # SLURM_KILL_BAD_EXIT, of conf/launcher/slurm.yaml, ends the others
            if isinstance(error, InputError) and not hydra_is_sweeping():
                fail(str(error))
            raise

    return wrapper


def command(main: Callable[[], int]) -> None:
    """Run a `main` without Hydra and end with its exit code; a user's error is one line on stderr and exit code 2."""
    try:
        raise SystemExit(main())
    except InputError as error:
        fail(str(error))


def composed(name: str, words: list[str]) -> Any:
    """A config as its Hydra command would have it, checked; `InputError` if it cannot be."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from proteinlm.config import register_schema

    register_schema()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_object(compose(name, words))
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(_in_one_line(error)) from None


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def job(module: str, strategy: "StrategyConfig", log: Path | None, run: Callable[[], None]) -> None:
    """Run one job of `module`: in this process if it may, else in a fresh group of as many as `strategy` has devices.

    A group already under way (torchrun, Slurm) is used as it is. A job of a local sweep writes its output to `log`.
    """
    from hydra.core.hydra_config import HydraConfig

    follow_parent()  # a worker of the launcher comes here without having passed `entry`
    in_group = "LOCAL_RANK" in os.environ or in_slurm_job() or slurm_tasks() > 1
    if not in_group:  # of a script or a shell on a cluster: nobody else was started with this process
        for name in ("SLURM_PROCID", "SLURM_NTASKS"):
            os.environ.pop(name, None)
    sweeping = hydra_is_sweeping()
    if not in_group and not sweeping and HydraConfig.get().runtime.choices.get("launcher") == "slurm":
        raise InputError("launcher=slurm submits the jobs of a multirun: add -m")
    if not in_group and strategy.nodes > 1:
        raise InputError(
            f"strategy.nodes={strategy.nodes}, but this starts processes on one machine: take -m launcher=slurm, or start "
            "one process for each device with srun, or torchrun on each node"
        )
    if in_group or (strategy.devices == 1 and not sweeping):
        run()
        return
    in_fresh_group(module, list(HydraConfig.get().overrides.task), strategy.devices, log if sweeping else None)


def in_fresh_group(module: str, overrides: list[str], processes: int, log: Path | None) -> None:
    """Start `processes` processes of `module` on this machine and wait for them."""
    command = [sys.executable, "-m", module, *overrides]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, *torchrun, module, *overrides]
    # torchrun gives each of several processes one thread, unless it is told
    environment = {PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(threads(processes)), **os.environ}
    if log is None:
        code = subprocess.run(command, env=environment).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    if code:
        raise InputError(f"{module} {' '.join(overrides)}: exit code {code}" + (f", see {log}" if log else ""))


def reports() -> bool:
    """Whether this process is the first of its group, which alone writes results; known before the group has met."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0


def in_slurm_job() -> bool:
    """Whether this process belongs to a job that submitit started on Slurm."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def slurm_tasks() -> int:
    """Processes that ``srun`` started together with this one; in a batch script, 1."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


@functools.cache
def follow_parent() -> None:
    """End this process when the one named by `PARENT` ends, even if it was killed; else name this one to descendants."""
    parent = None if in_slurm_job() else os.environ.get(PARENT)  # of another machine, and a job outlives it
    if not parent:
        os.environ[PARENT] = str(os.getpid())
        return
    if int(parent) == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(int(parent))
    except ProcessLookupError:
        raise SystemExit(1) from None

    def wait() -> None:
        select.select([descriptor], [], [])  # readable once the process has ended
        if os.getpgrp() == os.getpid():  # of a sweep: takes along the launcher's workers, idle ones too
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def physical_cores() -> int:
    """Cores that this process may use, not counting hardware threads of the same core twice."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return len(cores)


def threads(processes: int) -> int:
    """CPU threads for each of `processes` on this machine: what OMP_NUM_THREADS says, else what there is to compute on.

    Slurm gives each task SLURM_CPUS_PER_TASK CPUs, and may or may not bind it to them: they are one task's, and not to be
    divided again. Anyone else's processes share the cores that this one may run on.
    """
    if said := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(said.split(",")[0]))
    if given := os.environ.get("SLURM_CPUS_PER_TASK", ""):
        return max(1, min(int(given), physical_cores()))
    return max(1, physical_cores() // processes)


def _in_one_line(error: Exception) -> str:
    """The first line of Hydra's message says what, later ones where; its advice on overrides is left out, and of a choice
    that there is not, where it looked.
    """
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name} is not one of {', '.join(sorted(o for o in error.options if not o.endswith('schema')))}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and not isinstance(error, InputError):
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("To append", "full_key", "object_type", "reference_type"))]
    return " ".join(dict.fromkeys(kept)) or type(error).__name__
