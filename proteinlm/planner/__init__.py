"""What a run takes, before it starts: memory, work, communication, time and money, and what to change if it cannot fit.

Parameters, FLOPs, and the memory of weights, gradients and optimiser are exact; activations are counted tensor by tensor
as the blocks save them for the backward pass; time rests on what others have measured and is a band. Imports no torch.
"""

from proteinlm.planner.fit import check
from proteinlm.planner.hardware import HARDWARE, Hardware, hardware, named, processor
from proteinlm.planner.memory import (
    BF16,
    FP32,
    Memory,
    gigabytes,
    held,
    kept,
    memory,
    mixed,
    saved_by_block,
    saved_by_head,
    tensors,
)
from proteinlm.planner.plan import PFAM, Plan, Proteins, describe, kernel, plan

__all__ = [
    "BF16",
    "FP32",
    "HARDWARE",
    "PFAM",
    "Hardware",
    "Memory",
    "Plan",
    "Proteins",
    "check",
    "describe",
    "gigabytes",
    "hardware",
    "held",
    "kept",
    "kernel",
    "memory",
    "mixed",
    "named",
    "plan",
    "processor",
    "saved_by_block",
    "saved_by_head",
    "tensors",
]
