"""Layers in bfloat16 by functions in C: ``kernels/linear_bf16.c``, ``kernels/feed_forward_bf16.c`` and
``kernels/weights_bf16.c``.

They are for CPUs that multiply in bfloat16 by AVX-512 and have no AMX, under autocast. Their products are nearer to what the
instructions give than PyTorch's, and biases, GELU, LayerNorm, residual sums and roundings are applied to what is in the
registers. With AMX, PyTorch's products are several times as fast, so they stay PyTorch's.

T tokens, H hidden size, I outputs or intermediate size.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import has_bf16_products, load_kernels, share
from proteinlm.models.kernels.layers import are_usable, has_kernels

MULTIPLE = 32
"""Of the sizes that the functions take."""
ROWS, TILE, STRIP = 192, 12, 32
"""Rows that a thread takes at once, rows of a product, and columns of a strip, as in ``kernels/products_bf16.h``."""
PIECE = 5 * ROWS
"""Rows whose factors of the gradients of weights are held at once."""


def suits(x: Tensor, *layers: nn.LayerNorm | nn.Linear) -> bool:
    """Whether the functions take x (T, H) and these layers, and are worth it."""
    if not has_kernels(x) or x.ndim != 2 or not _computes_in_bf16():
        return False
    wanted = torch.float32 if isinstance(layers[0], nn.LayerNorm) else torch.bfloat16
    return x.dtype == wanted and are_usable(layers, x, MULTIPLE, ROWS)


def _computes_in_bf16() -> bool:
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return wanted and has_bf16_products() and not torch.cpu._is_amx_tile_supported()


def project(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))`` (T, I) bfloat16 of x (T, H) float32, and x.

    What else is computed of x shall be computed of that, so that its gradient is added on the way.
    """
    output, x = cast("tuple[Tensor, Tensor]", _NormLinear.apply(norm.eps, x.contiguous(), *_parameters(norm, linear)))
    return output, x


def add_linear(x: Tensor, linear: nn.Linear, residual: Tensor | None) -> Tensor:
    """``linear(x)`` (T, I) float32 of x (T, H) bfloat16, added to `residual` (T, I) float32 if there is one."""
    whole = None if residual is None else residual.contiguous()
    return _checked(_Linear.apply(x.contiguous(), whole, *_parameters(linear)))


def feed_forward(x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear, *, adds: bool) -> Tensor:
    """``down(gelu(up(norm(x))))`` (T, H) of x (T, H), both float32, and x if it `adds`; GELU in the tanh approximation."""
    keeps = torch.is_grad_enabled()
    return _checked(_FeedForward.apply(norm.eps, adds, keeps, x.contiguous(), *_parameters(norm, up, down)))


def _parameters(*layers: nn.LayerNorm | nn.Linear) -> list[Tensor]:
    return [each.contiguous() for layer in layers for each in (layer.weight, layer.bias)]


def _checked(output: object) -> Tensor:
    assert isinstance(output, Tensor)
    return output


class _NormLinear(torch.autograd.Function):
    """Keeps two numbers of each row, by which the norm is computed again."""

    @staticmethod
    def forward(
        ctx: Any, epsilon: float, x: Tensor, gain: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, sizes = len(x), (x.shape[1], len(weight))
        output, kept = x.new_empty(rows, len(weight), dtype=torch.bfloat16), x.new_empty(rows, 2)
        tensors = (x, gain, norm_bias, _packed(weight), bias, output, kept)
        _over_blocks("norm_linear_bf16_forward", tensors, rows, (*sizes, epsilon), _space("linear", sizes))
        ctx.save_for_backward(x, gain, norm_bias, weight, kept)
        ctx.set_materialize_grads(False)
        return output, x

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, upstream: Tensor | None, residual: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, gain, norm_bias, weight, kept = ctx.saved_tensors
        if upstream is None:
            return None, residual, None, None, None, None
        upstream, residual = upstream.contiguous(), None if residual is None else residual.contiguous()
        sizes = (x.shape[1], len(weight))
        gradient, sums = torch.empty_like(x), _sums_of(x)
        normal, above = _strips(x, x.shape[1]), _strips(x, len(weight))
        packed, of_linear = _packed_back(weight), _Gradient(weight)
        for piece, blocks in _pieces(len(x)):
            given = (x[piece], gain, norm_bias, packed, kept[piece], upstream[piece])
            more = None if residual is None else residual[piece]
            tensors = (*given, more, gradient[piece], normal, above, sums[blocks])
            numbers, rows = (*sizes, normal.stride(0)), len(x[piece])
            _over_blocks("norm_linear_bf16_backward", tensors, rows, numbers, _space("linear", sizes))
            of_linear.add(rows, above, normal)
        return None, gradient, *sums.sum(0), *of_linear.parts


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        rows, sizes = len(x), (x.shape[1], len(weight))
        output = bias.new_empty(rows, len(weight))
        tensors = (x, _packed(weight), bias, residual, output)
        _over_blocks("linear_bf16_forward", tensors, rows, sizes, _space("linear", sizes))
        ctx.save_for_backward(x, weight)
        ctx.adds = residual is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        upstream = upstream.contiguous()
        gradient, above = torch.empty_like(x), _strips(x, len(weight))
        packed, of_linear = _packed_back(weight), _Gradient(weight)
        for piece, _ in _pieces(len(x)):
            tensors, rows = (packed, upstream[piece], gradient[piece], above), len(x[piece])
            _over_blocks("linear_bf16_backward", tensors, rows, (x.shape[1], len(weight), above.stride(0)))
            of_linear.add(rows, above, _in_strips(x[piece]))
        return gradient, upstream if ctx.adds else None, *of_linear.parts


class _FeedForward(torch.autograd.Function):
    """Keeps what GELU is applied to, and two numbers of each row; the rest is computed again."""

    @staticmethod
    def forward(ctx: Any, epsilon: float, adds: bool, keeps: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        gain, norm_bias, up, up_bias, down, down_bias = parameters
        rows, sizes = len(x), (x.shape[1], len(up))
        output, kept = torch.empty_like(x), x.new_empty(rows, 2)
        inner = x.new_empty(_blocks(rows) * ROWS, len(up), dtype=torch.bfloat16) if keeps else None
        tensors = (x, gain, norm_bias, _packed(up), up_bias, _packed(down), down_bias, output, kept, inner)
        numbers = (*sizes, int(adds), epsilon)
        _over_blocks("feed_forward_bf16_forward", tensors, rows, numbers, _space("feed_forward", sizes))
        if keeps:
            ctx.adds = adds
            ctx.save_for_backward(x, gain, norm_bias, up, down, kept, inner)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gain, norm_bias, up, down, kept, inner = ctx.saved_tensors
        upstream = upstream.contiguous()
        sizes = hidden, wide = x.shape[1], len(up)
        gradient, sums = torch.empty_like(x), _sums_of(x)
        normal, above, active, of_inner = (_strips(x, size) for size in (hidden, hidden, wide, wide))
        packed, of_up, of_down = (_packed_back(up), _packed_back(down)), _Gradient(up), _Gradient(down)
        for piece, blocks in _pieces(len(x)):
            rows = len(x[piece])
            given = (x[piece], gain, norm_bias, *packed, kept[piece], inner[piece], upstream[piece])
            tensors = (*given, gradient[piece], normal, above, active, of_inner, sums[blocks])
            numbers = (*sizes, int(ctx.adds), normal.stride(0))
            _over_blocks("feed_forward_bf16_backward", tensors, rows, numbers, _space("feed_forward", sizes))
            of_up.add(rows, of_inner, normal)
            of_down.add(rows, above, active)
        return None, None, None, gradient, *sums.sum(0), *of_up.parts, *of_down.parts


class _Gradient:
    """The gradients of the weight and the bias of a linear layer, piece by piece."""

    def __init__(self, weight: Tensor) -> None:
        self.parts: tuple[Tensor, Tensor] = torch.zeros_like(weight), weight.new_zeros(len(weight))

    def add(self, rows: int, above: Tensor, x: Tensor) -> None:
        """Add the products of `rows` of the gradient of the output, `above` (I / 32, t, 32), and of the input, x
        (H / 32, t, 32), both in bfloat16.
        """
        compiled = load_kernels()
        assert compiled is not None
        outputs, inputs = self.parts[0].shape
        addresses = [each.data_ptr() for each in (above, x, *self.parts)]
        numbers = (rows, above.stride(1), above.stride(0), x.stride(1), x.stride(0), outputs, inputs)

        def work(first: int, last: int) -> None:
            room = torch.empty(compiled.weights_bf16_space((last - first) * TILE, inputs), dtype=torch.uint8)
            compiled.weights_bf16_gradient(*addresses, first, last, *numbers, room.data_ptr())

        share(work, [1] * -(-outputs // TILE))


def _blocks(rows: int) -> int:
    return -(-rows // ROWS)


def _pieces(rows: int) -> list[tuple[slice, slice]]:
    """Rows, and the blocks that they are, of each piece."""
    return [
        (slice(first, min(first + PIECE, rows)), slice(first // ROWS, _blocks(min(first + PIECE, rows))))
        for first in range(0, rows, PIECE)
    ]


def _strips(x: Tensor, size: int) -> Tensor:
    """Room in bfloat16 for `size` numbers of each row of a piece of x (T, H): (size / 32, t, 32)."""
    return torch.empty(size // STRIP, min(PIECE, _blocks(len(x)) * ROWS), STRIP, dtype=torch.bfloat16)


def _in_strips(x: Tensor) -> Tensor:
    """X (t, H) seen as (H / 32, t, 32)."""
    return x.unflatten(1, (-1, STRIP)).transpose(0, 1)


def _sums_of(x: Tensor) -> Tensor:
    return x.new_empty(_blocks(len(x)), 2, x.shape[1])


def _space(name: str, sizes: tuple[int, int]) -> int:
    return getattr(load_kernels(), f"{name}_bf16_space")(*sizes)


def _packed(weight: Tensor) -> Tensor:
    """A weight (I, H) for the product with its transpose."""
    return _pack("weights_bf16_pack", weight, len(weight), weight.shape[1:])


def _packed_back(weight: Tensor) -> Tensor:
    """A weight (I, H) for the product with it."""
    return _pack("weights_bf16_pack_back", weight, weight.shape[1], weight.shape)


def _pack(name: str, weight: Tensor, columns: int, numbers: tuple[int, ...]) -> Tensor:
    panels = torch.empty_like(weight, dtype=torch.bfloat16)
    function = getattr(load_kernels(), name)
    share(lambda *some: function(weight.data_ptr(), panels.data_ptr(), *some, *numbers), [1] * (columns // MULTIPLE))
    return panels


def _over_blocks(
    name: str, tensors: tuple[Tensor | None, ...], rows: int, numbers: tuple[float, ...], space: int = 0
) -> None:
    function = getattr(load_kernels(), name)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = torch.empty(space, dtype=torch.uint8)
        function(*addresses, first, last, rows, *numbers, *((room.data_ptr(),) if space else ()))

    if rows:
        share(work, [1] * _blocks(rows))
