"""Chooses the device, the precision and the threads of a process; training and inference ask the same functions."""

import ctypes
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from proteinlm.config import MachineConfig, StrategyConfig, TrainConfig
from proteinlm.errors import InputError
from proteinlm.launch import cores
from proteinlm.launch.processes import is_rank_zero
from proteinlm.parallel.cuda_graphs import require_cuda_graphs
from proteinlm.parallel.fp8 import require_fp8

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of parameters in glibc's ``malloc.h``."""


@dataclass(frozen=True)
class TrainingDevice:
    """What one process of a training computes on."""

    accelerator: str
    """``cpu`` or ``cuda``."""
    precision: str
    """``fp32`` or ``bf16-mixed``."""
    threads: int
    hardware: str
    """Name of the GPU, or of the CPU with its number of cores."""
    compiled: bool = False
    fp8: bool = False
    """Whether the blocks of a ``bf16-mixed`` model multiply in fp8."""

    @property
    def precision_name(self) -> str:
        """`precision`, or ``fp8-mixed``."""
        return "fp8-mixed" if self.fp8 else self.precision

    @property
    def facts(self) -> dict[str, str | int]:
        """What the record of an attempt says of it."""
        return {"hardware": self.hardware, "threads": self.threads, "precision": self.precision_name}

    @classmethod
    def choose(cls, train: MachineConfig, strategy: StrategyConfig) -> "TrainingDevice":
        """Choose what `train` leaves open, and set torch's threads and determinism accordingly.

        Raises `InputError` if `train` asks for a GPU and there is none, or for what the GPU cannot do.
        """
        if train.accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError("train.accelerator=cuda, but torch finds no CUDA device")
        device = torch.device("cpu") if train.accelerator == "cpu" else default_device()
        threads = train.threads or cores.threads(strategy.devices)
        torch.set_num_threads(threads)
        if device.type == "cpu":
            keep_freed_memory()
        if train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition
        torch.use_deterministic_algorithms(train.deterministic)
        fp8 = isinstance(train, TrainConfig) and train.fp8
        if fp8:
            require_fp8(device)
        precision = choose_precision(device, train.precision)
        if isinstance(train, TrainConfig) and train.cuda_graphs:
            require_cuda_graphs(device, precision)
        return cls(device.type, precision, threads, name_of(device), train.compile, fp8)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a training step frees for the next step, unless the environment sets its limits.

    Otherwise the system takes it back and fills it with zeros again, page by page, which takes up to a twentieth of a step.
    """
    chosen = os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}
    mallopt = None if chosen else getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    # an older glibc takes at most 32 MiB
    if mallopt and any(mallopt(M_MMAP_THRESHOLD, most) for most in (2**31 - 1, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(device: torch.device, wanted: str) -> str:
    """``fp32`` or ``bf16-mixed``: what is `wanted`, or for ``auto`` bf16 if `device` has instructions for it.

    One line on stderr says that bf16 is slow, if it is wanted on a device without them.
    """
    if wanted == "bf16-mixed" and not has_fast_bf16(device):
        _warn_of_slow_bf16(name_of(device))
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if has_fast_bf16(device) else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 by instructions of its own; emulated, bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


@functools.cache  # a process chooses more than once
def _warn_of_slow_bf16(name: str) -> None:
    if is_rank_zero():
        print(
            f"warning: precision bf16-mixed is several times slower than fp32 on {name}, which has no bf16 instructions; "
            "precision auto takes fp32 there",
            file=sys.stderr,
        )


def name_of(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of cores that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, 'CPU')}, {cores.physical_cores()} cores"
