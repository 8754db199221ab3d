"""Layers of narrow blocks by functions in C, on CPUs in float32: ``kernels/norm_linear.c`` and ``kernels/feed_forward.c``.

What lies between two layers is too large for a core's cache, and products of narrow models spend a third of their time
waiting for it. The functions take a few rows through all layers at once.

T tokens, H hidden size, I intermediate size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import load_kernels
from proteinlm.models.kernels.layers import are_usable, has_kernels
from proteinlm.models.kernels.threads import share

WIDEST = 256
"""Hidden sizes up to which the functions are faster than PyTorch's products."""
MULTIPLE = 16
"""Of the sizes that they take."""
PIECE = 512
"""Rows that a thread takes at once, as in ``kernels/narrow.h``."""


def suits(x: Tensor, norm: nn.LayerNorm, *linear: nn.Linear) -> bool:
    """Whether the functions take the states x (T, H) and these layers, and are worth it."""
    if not has_kernels(x) or x.ndim != 2 or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return x.shape[-1] <= WIDEST and are_usable((norm, *linear), x, MULTIPLE, PIECE)


def project(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear(norm(x), weight, bias)`` (T, I) of x (T, H)."""
    return _apply("norm_linear", x, norm.eps, norm.weight, norm.bias, weight, bias)


def add_feed_forward(x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear) -> Tensor:
    """``x + down(gelu(up(norm(x))))`` (T, H) of x (T, H), with GELU in the tanh approximation."""
    parameters = (each for layer in (norm, up, down) for each in (layer.weight, layer.bias))
    return _apply("feed_forward", x, norm.eps, *parameters)


def _apply(name: str, x: Tensor, epsilon: float, *parameters: Tensor) -> Tensor:
    given = [each.contiguous() for each in (x, *parameters)]
    output = _Rows.apply(name, epsilon, torch.is_grad_enabled(), *given)
    assert isinstance(output, Tensor)
    return output


class _Rows(torch.autograd.Function):
    """Keeps what GELU is applied to, and two numbers of each row; the rest is computed again."""

    @staticmethod
    def forward(ctx: Any, name: str, epsilon: float, learns: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        rows, wide = len(x), len(parameters[2])
        output, kept = x.new_empty(rows, len(parameters[-1])), x.new_empty(rows, 2)
        inner = (x.new_empty(rows, wide) if learns else None,) if name == "feed_forward" else ()
        _call(f"{name}_forward", (x, *parameters, output, kept, *inner), None, rows, (x.shape[1], wide), (epsilon,))
        if learns:
            ctx.name, ctx.count = name, len(parameters)
            ctx.save_for_backward(x, *parameters, kept, *inner)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *saved = ctx.saved_tensors  # read once: PyTorch's recomputation allows no more
        parameters, kept = saved[: ctx.count], saved[ctx.count :]
        gain, bias, *others = parameters
        gradient = torch.empty_like(x)
        sums = x.new_empty(_pieces(len(x)), sum(each.numel() for each in parameters))
        matrices = (each for each in others if each.ndim == 2)
        tensors = (x, gain, bias, *matrices, *kept, upstream.contiguous(), gradient)
        _call(f"{ctx.name}_backward", tensors, sums, len(x), (x.shape[1], len(others[0])))
        whole = sums[0] if len(sums) == 1 else sums.sum(0)
        parts = whole.split([each.numel() for each in parameters])
        shaped = (part.view(each.shape) for part, each in zip(parts, parameters, strict=True))
        return None, None, None, gradient, *shaped


def _pieces(rows: int) -> int:
    return -(-rows // PIECE)


def _call(
    name: str,
    tensors: tuple[Tensor | None, ...],
    sums: Tensor | None,
    rows: int,
    sizes: tuple[int, int],
    scalars: tuple[float, ...] = (),
) -> None:
    compiled = load_kernels()
    assert compiled is not None
    function, space = getattr(compiled, name), getattr(compiled, f"{name.rsplit('_', 1)[0]}_space")(*sizes)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space)
        if sums is None:
            function(*addresses, first * PIECE, min(rows, last * PIECE), *sizes, *scalars, room.data_ptr())
        else:
            function(*addresses, sums.data_ptr(), first, last, rows, *sizes, room.data_ptr())

    if rows:
        share(work, [1] * _pieces(rows))
