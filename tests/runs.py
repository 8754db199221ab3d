"""Pretraining runs small enough for tests, as real processes or in this one."""

import functools
import logging
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas  # noqa: F401  # pyarrow imports it for its first array: here once, and not in each fork
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from safetensors.torch import load_file
from torch import Tensor

from proteinlm.config import RunConfig
from proteinlm.launch import entry

ROOT = Path(__file__).parents[1]
Plugins.instance()  # looks for them once, and not in each fork
SMALL = (  # two micro-batches a step, dropout on, a few steps
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.max_positions=128",
    "train.step_tokens=2048",
    "train.micro_batch_tokens=512",
    "train.tokens=24576",  # 12 steps
    "train.validations=2",
    "train.validation_tokens=1024",
    "train.threads=1",
    "train.checkpoint_seconds=0",
    "optim.learning_rate=1e-2",
    "tracking=csv",
    "data.folds=5",  # an epoch takes about six steps
    "data.members=6",
)


def composed(*overrides: str) -> RunConfig:
    """The config that a command line of `overrides` gives."""
    config = entry.compose("pretrain", ["name=tiny", *overrides])
    assert isinstance(config, RunConfig)
    return config


class Command:
    """``python -m module words`` as a process of its own: a fork of this one, so that it need not import everything again.

    It is used like `subprocess.Popen` with pipes.
    """

    def __init__(self, module: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._written = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        work = functools.partial(self._run, module, [module, *words], environment or {})
        self._process = multiprocessing.get_context("fork").Process(target=work)
        self._process.start()

    def _run(self, module: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        sys.argv[:] = arguments
        os.environ |= environment
        for descriptor, (name, file) in enumerate(zip(("stdout", "stderr"), self._written, strict=True), 1):
            os.dup2(file.fileno(), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, closefd=False))
        logging.getLogger().handlers.clear()
        GlobalHydra.instance().clear()
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end; what was written to standard output and to standard error."""
        self._process.join(timeout)
        if self.poll() is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s")
        said = []
        for file in self._written:
            file.seek(0)
            said.append(file.read())
        return said[0], said[1]


def start(output: Path, *overrides: str) -> Command:
    """A pretraining run in a process of its own; its results go to ``output/single/tiny/pretrain``."""
    return Command("experiments.pretrain", [*SMALL, f"output={output}", *overrides])


def finish(process: Command) -> str:
    """Wait for a run that must succeed; its output."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def in_group(world: int, work: Callable[[], object]) -> None:
    """Let `world` processes `work` together, forked so that they need not import everything again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_member, args=(rank, world, port, work)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * world


def _member(rank: int, world: int, port: int, work: Callable[[], object]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    work()


def home(output: Path) -> Path:
    return output / "single/tiny/pretrain"


def weights(output: Path) -> dict[str, Tensor]:
    return load_file(home(output) / "model/model.safetensors")


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
