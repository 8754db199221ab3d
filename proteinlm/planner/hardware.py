"""Hardware by name, and the share of its peak that published trainings have reached."""

import os
from dataclasses import dataclass, replace

from proteinlm.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """The device of one process."""

    name: str
    memory: float
    """Bytes."""
    cuda: bool = True
    peak: float | None = None
    """FLOP/s of dense bf16 products; None if it is not known."""
    link: float = 0.0
    """Bytes per second between the processes of a node."""
    network: float = 0.0
    """Bytes per second between nodes, for each process."""


HARDWARE = {
    "h200": Hardware("H200", 141e9, True, 989.4e12, 450e9, 50e9),
    "h100": Hardware("H100", 80e9, True, 989.4e12, 450e9, 50e9),
    "a100": Hardware("A100", 80e9, True, 312e12, 300e9, 25e9),
}
"""Data sheets: memory, dense bf16, NVLink in one direction, and the usual network of its time."""


def gpu(name: str, memory: float) -> Hardware:
    """A GPU, by the name and the memory in bytes that its driver reports."""
    known = next((row for key, row in HARDWARE.items() if key.upper() in name.upper()), None)
    return replace(known, memory=memory) if known else Hardware(name, memory)


def hardware_named(name: str, processes: int) -> Hardware:
    """Hardware by its key in `HARDWARE`, or ``cpu``: this machine's, shared by `processes`."""
    if name not in HARDWARE and name != "cpu":
        raise InputError(f"hardware={name} is not one of {', '.join(HARDWARE)}, cpu")
    return HARDWARE[name] if name in HARDWARE else processor(processes)


def processor(processes: int) -> Hardware:
    """The processor of this machine, whose memory `processes` share evenly."""
    return Hardware("CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes, cuda=False)


@dataclass(frozen=True)
class Utilisation:
    """The share of the peak that a training step reaches at a hidden size."""

    hidden_size: int
    low: float
    high: float
    source: str


UTILISATION = (
    Utilisation(512, 0.20, 0.28, "extrapolated from 768"),
    Utilisation(768, 0.26, 0.43, "SpeedrunningPLMs 132M, one GH200: 26 %; llm-foundry MPT-125M, A100: 42.6 %"),
    Utilisation(1024, 0.33, 0.51, "nanoPLM 400M, GH200: 33 to 36 %; llm-foundry MPT-350M, A100: 50.6 %"),
    Utilisation(1280, 0.43, 0.59, "BioNeMo ESM-2 650M: 16 H100 43 %, one A100 59.2 %"),
    Utilisation(
        2048, 0.41, 0.52, "Megatron-LM 1.7B, 48 H100: 41 %; llm-foundry MPT-1.3B, 8 H100: 43.2 %; above: extrapolated"
    ),
    Utilisation(
        2560, 0.46, 0.61, "llm-foundry MPT-3B, 8 H100: 46.3 %; BioNeMo ESM-2 3B: 16 H100 49 %, 256 A100 60.6 %"
    ),
    Utilisation(4096, 0.46, 0.55, "llm-foundry MPT-7B, 8 H100: 46.4 %; BioNeMo ESM-2 15B (5120), 8 H200: 54.6 %"),
)
"""Width decides, depth does not. Below 1024 a step waits for memory and launches. All compiled, with fused kernels."""


def utilisation_at(hidden_size: int) -> Utilisation:
    """The entry of the largest hidden size that is not above this one; below the smallest, that one in proportion."""
    if hidden_size < (least := UTILISATION[0]).hidden_size:
        share = hidden_size / least.hidden_size
        return replace(least, low=least.low * share, high=least.high * share)
    return max((row for row in UTILISATION if row.hidden_size <= hidden_size), key=lambda row: row.hidden_size)
