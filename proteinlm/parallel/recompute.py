"""Blocks that keep little between their forward and backward pass."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module) -> None:
    """Let `block` keep its inputs alone, and compute the rest again for the backward pass."""
    forward = block.forward
    # set on the instance: a wrapper module would change the names of the weights
    block.forward = lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


def recompute_offloaded(block: nn.Module) -> None:
    """`recompute`, with the inputs in the host's memory in between (fairscale)."""
    from fairscale.nn.checkpoint import checkpoint_wrapper

    wrapped = checkpoint_wrapper(_InItsOwnPrecision(block), offload_to_cpu=True)
    block.forward = lambda x, *others: wrapped(_precision(x), x, *others)


class _InItsOwnPrecision(nn.Module):
    """Runs a block under the automatic mixed precision it was called in.

    fairscale runs the backward pass's computation under float16 or under none at all, whatever the forward pass had.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.original = (block.forward, block.parameters)  # a tuple hides the block: its weights keep their names

    def forward(self, precision: dict[str, Any], *inputs: Any) -> torch.Tensor:
        with torch.autocast(**precision):
            return self.original[0](*inputs)

    def parameters(self, recurse: bool = True) -> Any:
        """The block's, which tell fairscale whether the output needs a gradient."""
        return self.original[1](recurse)


def _precision(x: torch.Tensor) -> dict[str, Any]:
    device = x.device.type
    return {
        "device_type": device,
        "dtype": torch.get_autocast_dtype(device),
        "enabled": torch.is_autocast_enabled(device),
    }
