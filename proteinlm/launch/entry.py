"""From a command line to a checked config, and from an error to one line.

Lightning and wandb decide once per process how many ranks there are and which run they belong to. A process therefore
trains one job, and the process that sweeps only composes configs. Imports no torch.
"""

import functools
import gc
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from proteinlm.config import BenchmarkConfig, FinetuneConfig, StageConfig, register_schema
from proteinlm.errors import InputError
from proteinlm.launch import processes, signals

CONF = next(
    (place for place in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if place.is_dir()),
    Path(__file__).parents[2] / "conf",
)
"""The configs: in the package where it was installed from a wheel, else beside it."""
Config = TypeVar("Config", bound=StageConfig | BenchmarkConfig)
UNUSED = ("matplotlib", "scipy", "transformers")
"""What torchmetrics imports if it finds it, and a stage never asks it for."""


def hydra_main(name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a command of a function that takes the checked config of ``conf/<name>.yaml``.

    The command composes the config from its words. An error that a user can cause ends it with one line on stderr and
    exit code 2, a signal with one line and 128 + signal. In a multirun Hydra gets the error of a job and goes on with the
    other jobs; a signal for the multirun itself stops them all.
    """

    def decorate(main: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(composed: Any) -> None:
            from omegaconf import OmegaConf

            with _errors_reported():
                main(OmegaConf.to_object(composed))

        @functools.wraps(main)
        def command() -> None:
            import hydra
            from hydra.errors import HydraException
            from omegaconf.errors import OmegaConfBaseException

            from proteinlm.launch import words

            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error itself, in its own way
            processes.follow_parent()
            if shutil.which("scontrol"):
                from proteinlm.launch import slurm

                slurm.adapt()
            register_schema()
            signals.install()
            try:
                _refuse_null_options(sys.argv[1:])
                sys.argv[1:] = words.prepare(name, sys.argv[1:])
                sweeping, on_slurm = _is_multirun(sys.argv[1:]), _is_on_slurm(sys.argv[1:])
                if sweeping and on_slurm and not shutil.which("sbatch"):
                    raise InputError(
                        "launcher=slurm submits jobs with sbatch, which is not here: is this a Slurm cluster?"
                    )
                # jobs on Slurm outlive the command
                with _jobs_stopped() if sweeping and not on_slurm else nullcontext():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
            except signals.Stopped as stopped:
                if stopped.message and processes.is_rank_zero():
                    print(stopped.message, file=sys.stderr)
                raise
            except processes.StoppedJob as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(128 + error.signal) from None
            except (InputError, HydraException, OmegaConfBaseException) as error:
                fail(_in_one_line(error))

        return command

    return decorate


def _refuse_null_options(words: list[str]) -> None:
    """Refuse ``profile=null``, which Hydra meets with a traceback: a group has options, and null is none of them."""
    for word in words:
        group, _, value = word.partition("=")
        if value == "null" and (options := [file.stem for file in (CONF / group).glob("*.yaml")]):
            raise InputError(f"{_not_one_of(word, options)}, nor [] for none of them")


def _not_one_of(word: str, options: Iterable[str]) -> str:
    return f"{word} is not one of {', '.join(sorted(option for option in options if not option.endswith('schema')))}"


def _is_multirun(words: list[str]) -> bool:
    return bool({"-m", "--multirun"} & set(words))


def _is_on_slurm(words: list[str]) -> bool:
    return any("slurm" in word for word in words if word.partition("=")[0].endswith("launcher"))


@contextmanager
def _jobs_stopped() -> Iterator[None]:
    """Let the jobs of a multirun end in good order before a signal ends the multirun."""
    try:
        with signals.deferred(), processes.workers_stopped():
            yield
    except BaseException:
        if number := signals.stop_requested():
            raise signals.Stopped(number, "stopped; the same command goes on") from None
        raise


@contextmanager
def _errors_reported() -> Iterator[None]:
    """End a single run with one line for a user's error; pass the error on in a sweep.

    A job of several processes must end with the first that fails: Hydra would keep the error and let the others wait.
    """
    try:
        yield
    except Exception as error:
        if processes.in_slurm_job() and processes.slurm_tasks() > 1:
            print(
                f"error: {error}" if isinstance(error, InputError) else traceback.format_exc(),
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)  # SLURM_KILL_BAD_EXIT, of conf/launcher/slurm.yaml, ends the others
        if isinstance(error, InputError) and not _hydra_is_sweeping():
            fail(str(error))
        raise


def start(command: str, config: Config, run: Callable[[Config], None]) -> None:
    """Run one job: in this process if possible, else ``python -m command`` in a new group, a process for each device.

    A group that torchrun or Slurm has started is used as it is. A job of a local sweep writes its output to a log beside
    its results.
    """
    from hydra.core.hydra_config import HydraConfig

    processes.follow_parent()  # a worker of the launcher comes here without having passed `hydra_main`
    strategy, in_group, sweeping = config.strategy, processes.in_group(), _hydra_is_sweeping()
    if not in_group:  # of a script or a shell on a cluster: nobody else was started with this process
        for name in ("SLURM_PROCID", "SLURM_NTASKS"):
            os.environ.pop(name, None)
    if not in_group and not sweeping and HydraConfig.get().runtime.choices.get("launcher") == "slurm":
        raise InputError("launcher=slurm submits the jobs of a multirun: add -m")
    if not in_group and strategy.nodes > 1:
        raise InputError(
            f"strategy.nodes={strategy.nodes}, but this starts processes on one machine: take -m launcher=slurm, or start "
            "one process for each device with srun, or torchrun on each node"
        )
    if in_group or (strategy.devices == 1 and not sweeping):
        run(config)
        return
    module, *arguments = (*command.split(), *HydraConfig.get().overrides.task)
    if not sweeping:
        processes.run_group(module, arguments, strategy.devices, None)
        return
    processes.note_signals_in_worker()
    log = _log(config)
    if number := signals.stop_requested():
        raise processes.StoppedJob(f"{config.name}: not started", number)
    try:
        processes.run_group(module, arguments, strategy.devices, log)
    except signals.Stopped as stopped:
        message = f"{config.name}: stopped, see {log}; the same command goes on"
        print(message, file=sys.stderr, flush=True)
        raise processes.StoppedJob(message, stopped.signal) from None


def _log(config: StageConfig | BenchmarkConfig) -> Path:
    if isinstance(config, BenchmarkConfig):
        return config.log
    if isinstance(config, FinetuneConfig):
        return config.directory.parent / f"{config.task.label}.log"
    return Path(config.output) / config.group / config.name / "log.txt"


@contextmanager
def importing() -> Iterator[None]:
    """Import Lightning, and what belongs to it, at half the cost: two seconds of processor time instead of four or five.

    Objects that are imported are not searched for garbage, now and ever after. And torchmetrics, which Lightning imports,
    does not find the libraries that its scores of texts and sounds and its plots need: it would import them at once.
    """
    from lightning_utilities.core import imports

    found, available = imports.RequirementCache.__bool__, imports.package_available
    gc.disable()
    imports.RequirementCache.__bool__ = lambda self: not str(self.requirement).startswith(UNUSED) and found(self)
    imports.package_available = lambda name: name not in UNUSED and available(name)
    try:
        yield
    finally:
        imports.RequirementCache.__bool__, imports.package_available = found, available
        gc.freeze()
        gc.enable()


def _hydra_is_sweeping() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode is RunMode.MULTIRUN


def command(main: Callable[[], int]) -> None:
    """Run a `main` without Hydra and end with its exit code; a user's error is one line on stderr and exit code 2."""
    try:
        raise SystemExit(main())
    except signals.Stopped as stopped:
        print(stopped.message, file=sys.stderr)
        raise
    except InputError as error:
        fail(str(error))


def compose(name: str, overrides: list[str]) -> Any:
    """Compose and check the config that the Hydra command `name` gets of `overrides`; raises `InputError`."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from proteinlm.launch import words

    register_schema()
    _refuse_null_options(overrides)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_object(compose(name, words.prepare(name, overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(_in_one_line(error)) from None


def fail(message: str) -> None:
    """Print one line on stderr and end with exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _in_one_line(error: Exception) -> str:
    """The first line of Hydra's message says what is wrong and later ones say where; its advice is left out.

    Of an unknown option of a group, the known ones are listed, and the directories that were searched are left out.
    """
    from hydra.errors import MissingConfigException, OverrideParseException

    from proteinlm.launch import words

    if isinstance(error, OverrideParseException):
        return words.advice(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "budget":
            choices = ", ".join(sorted(error.options))
            return f"no conf/budget/{name}.yaml says how this profile fine-tunes on this data; there are {choices}"
        return _not_one_of(f"{group}={name}", error.options)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'\n", str(error)):
        return f"{ambiguous[1]} is several values: add -m to sweep over them"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and not isinstance(error, InputError):
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("To append", "full_key", "object_type", "reference_type"))]
    return " ".join(dict.fromkeys(kept)) or type(error).__name__
