"""Round batch sizes up to a few values: for compiled CPU kernels, and for products in fp8.

oneDNN, which multiplies bfloat16 on CPUs, compiles a kernel for each new shape. That takes one to ten milliseconds, as long
as dozens of small products, and packed proteins have a new shape in every batch. The functions here round sizes up to values
that come again. On GPUs no kernel is compiled for a shape, but products in fp8 sum over multiples of 16 rows alone.

T tokens of B proteins laid end to end, K of them, H hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 16
"""All bucket sizes are multiples of it."""


def bucket_size(size: int, per_octave: int) -> int:
    """The smallest bucket size from `size` on: multiples of `MULTIPLE`, at most `per_octave` from one power of two to the
    next.
    """
    spacing = max(MULTIPLE, 2 ** (size - 1).bit_length() // (2 * per_octave))
    return -(-size // spacing) * spacing


def padding(size: int, device: torch.device) -> int:
    """The number of rows to add to `size` rows on `device` before a product: at most a sixty-fourth, or `MULTIPLE` - 1.

    0 in float32, and on devices other than CPUs and CUDA's.
    """
    if device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device.type):
        return 0
    return bucket_size(size, 64) - size if device.type == "cpu" else -size % MULTIPLE


def pad_batch_to_bucket(tokens: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """`tokens` (T,) and `starts` (B + 1,) with the `padding` as proteins of their own, whose tokens are 0.

    None of them has more than `longest` tokens, for which the backbone has positions.
    """
    rows = padding(len(tokens), tokens.device)
    if not rows:
        return tokens, starts
    ends = torch.arange(longest, rows + longest, longest, device=starts.device, dtype=starts.dtype).clamp(max=rows)
    return F.pad(tokens, (0, rows)), torch.cat((starts, starts[-1:] + ends))


def pad_rows_to_bucket(index: Tensor) -> Tensor:
    """`index` (K,) of rows, with the `padding` as its last row time and again; index itself where there is none."""
    rows = padding(len(index), index.device)
    return torch.cat((index, index[-1:].expand(rows))) if rows else index


def pad_to_bucket(x: Tensor) -> Tensor:
    """X (K, H) with the `padding` as rows of zeros; x itself, not a copy, where there is none."""
    rows = padding(len(x), x.device)
    return F.pad(x, (0, 0, 0, rows)) if rows else x
