"""How much memory a computation can have, so that one which needs more is refused before it starts."""

from pathlib import Path

import torch

from proteinlm.planner.hardware import processor


def free_memory(device: torch.device) -> float:
    """Bytes of memory on the device that a process can have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    available = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next(available, processor(1).memory)
