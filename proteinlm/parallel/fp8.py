"""Matrix products of blocks in fp8. The only importer of torchao."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from proteinlm.errors import InputError

CAPABILITY = (8, 9)
"""The first GPUs that multiply fp8: Ada, then Hopper and Blackwell."""


def require_fp8(device: torch.device) -> None:
    """Raise `InputError` if torchao is missing or `device` does not multiply fp8."""
    _torchao()
    needed = "train.fp8=true needs a GPU of compute capability {}.{} or newer".format(*CAPABILITY)
    if device.type != "cuda":
        raise InputError(f"{needed}, and this process computes on the {device.type.upper()}")
    if (found := torch.cuda.get_device_capability()) < CAPABILITY:
        raise InputError(f"{needed}, and {torch.cuda.get_device_name()} has {found[0]}.{found[1]}")


def multiply_in_fp8(blocks: Iterable[nn.Module]) -> None:
    """Let the linear layers of `blocks` compute in fp8, forward and backward.

    Inputs, weights and gradients are cast when they are multiplied, each with a scale of its own. The parameters stay the
    same objects under the same names, so optimisers, checkpoints and the division of a model do not notice.
    """
    torchao = _torchao()
    for block in blocks:
        torchao.convert_to_float8_training(block)


def _torchao() -> Any:
    try:
        from torchao import float8  # type: ignore[import-not-found]
    except ImportError:
        raise InputError("train.fp8=true needs torchao: pip install 'proteinlm[fp8]'") from None
    return float8
