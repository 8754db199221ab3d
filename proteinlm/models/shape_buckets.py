"""Sizes for which there is a kernel already.

oneDNN, which multiplies bfloat16 on CPUs, compiles a kernel for each new shape. That takes one to ten milliseconds, as
long as dozens of small products, and packed proteins have a new shape in every batch. Here sizes are rounded up to ones
that come again.

T tokens of B proteins laid end to end, K of them, H hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 16
"""Sizes that come again are multiples of it."""


def rounded(size: int, steps: int) -> int:
    """The least number from `size` on that comes again: of multiples of `LEAST`, at most `steps` from one power of two
    to the next.
    """
    apart = max(LEAST, 2 ** (size - 1).bit_length() // (2 * steps))
    return -(-size // apart) * apart


def missing(size: int, device: torch.device) -> int:
    """Rows to add to `size` rows on `device` before they are multiplied: at most a sixty-fourth, or `LEAST` - 1.

    None where no kernel is compiled for a shape.
    """
    compiled = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return rounded(size, 64) - size if compiled else 0


def fill(tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """`tokens` (T,) and `starts` (B + 1,) with the `missing` tokens, all 0, as a protein of their own."""
    more = missing(len(tokens), tokens.device)
    if not more:
        return tokens, starts
    return F.pad(tokens, (0, more)), torch.cat((starts, starts[-1:] + more))


def fill_rows(x: Tensor) -> Tensor:
    """Append the `missing` rows, all 0, to x (K, H); x itself, not a copy, where there are none."""
    more = missing(len(x), x.device)
    return F.pad(x, (0, 0, 0, more)) if more else x
