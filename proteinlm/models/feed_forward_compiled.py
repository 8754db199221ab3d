"""The feed-forward half of a narrow block by functions in C, ``kernels/feed_forward.c``, on CPUs in float32.

What lies between its two products is too large for a core's cache, and products of narrow models spend a third of their
time waiting for it. The functions take a few rows through everything at once.

T tokens, H hidden size, I intermediate size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import load_kernels, share
from proteinlm.models.kernels.layers import has_kernels, is_plain

WIDEST = 256
"""Hidden sizes up to which the functions are faster than PyTorch's products."""
MULTIPLE = 16
"""Of the sizes that they take."""
PIECE = 512
"""Rows that a thread takes at once, as in the file in C."""


def suits(x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear) -> bool:
    """Whether the functions take the states x (T, H) and these layers, and are worth it.

    They are not if there is too little work for all threads, or if the gradient of x alone is needed.
    """
    layers = ((norm, nn.LayerNorm), (up, nn.Linear), (down, nn.Linear))
    sizes = x.shape[-1] <= WIDEST and not x.shape[-1] % MULTIPLE and not len(up.weight) % MULTIPLE
    suitable = x.ndim == 2 and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and has_kernels(x)
    if not (sizes and suitable and all(is_plain(layer, kind) for layer, kind in layers)):
        return False
    threads = torch.get_num_threads()
    frozen = torch.is_grad_enabled() and x.requires_grad and not all(layer.weight.requires_grad for layer, _ in layers)
    return not frozen and (threads == 1 or _pieces(len(x)) >= 2 * threads)


def add_feed_forward(x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear) -> Tensor:
    """``x + down(gelu(up(norm(x))))`` (T, H) of x (T, H), with GELU in the tanh approximation."""
    parameters = (norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)
    output = _FeedForward.apply(
        norm.eps, torch.is_grad_enabled(), x.contiguous(), *(each.contiguous() for each in parameters)
    )
    assert isinstance(output, Tensor)
    return output


class _FeedForward(torch.autograd.Function):
    """Keeps what GELU is applied to, and two numbers of each row; the rest is computed again."""

    @staticmethod
    def forward(ctx: Any, epsilon: float, learns: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        rows, wide = len(x), len(parameters[2])
        output, kept = torch.empty_like(x), x.new_empty(rows, 2)
        inner = x.new_empty(rows, wide) if learns else None
        _call("forward", (x, *parameters, output, kept, inner), None, rows, x.shape[1], wide, (epsilon,))
        if inner is not None:
            ctx.save_for_backward(x, *parameters, kept, inner)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gain, bias, up, up_bias, down, down_bias, kept, inner = ctx.saved_tensors
        gradient = torch.empty_like(x)
        (rows, hidden), wide = x.shape, len(up)
        shapes = [gain.shape, bias.shape, up.shape, up_bias.shape, down.shape, down_bias.shape]
        sums = x.new_empty(_pieces(rows), sum(shape.numel() for shape in shapes))
        tensors = (x, gain, bias, up, down, kept, inner, upstream.contiguous(), gradient)
        _call("backward", tensors, sums, rows, hidden, wide)
        parts = sums.sum(0).split([shape.numel() for shape in shapes])
        return None, None, gradient, *(part.view(shape) for part, shape in zip(parts, shapes, strict=True))


def _pieces(rows: int) -> int:
    return -(-rows // PIECE)


def _call(
    direction: str,
    tensors: tuple[Tensor | None, ...],
    sums: Tensor | None,
    rows: int,
    hidden: int,
    wide: int,
    scalars: tuple[float, ...] = (),
) -> None:
    compiled = load_kernels()
    assert compiled is not None
    function, space = getattr(compiled, f"feed_forward_{direction}"), compiled.feed_forward_space(hidden, wide)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space)
        if sums is None:
            function(*addresses, first * PIECE, min(rows, last * PIECE), hidden, wide, *scalars, room.data_ptr())
        else:
            function(*addresses, sums.data_ptr(), first, last, rows, hidden, wide, room.data_ptr())

    if rows:
        share(work, [1] * _pieces(rows))
