"""Linear layers fused with what surrounds them, by functions in C on CPUs with AVX-512: ``kernels/fused_*``.

Their products are nearer to what the instructions give than PyTorch's, and biases, GELU, LayerNorm, residual sums and
roundings are applied to what is in the registers. They are for float32, where `narrow_layers` does not suit, and under
autocast for bfloat16, if the processor multiplies it by AVX-512. With AMX, PyTorch's products in bfloat16 are several times
as fast, so they stay PyTorch's.

T tokens, H hidden size, I outputs or intermediate size.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.models.kernels.compiler import has_avx512, has_bf16_products, load_kernels
from proteinlm.models.kernels.layers import are_usable, as_tensor, has_kernels
from proteinlm.models.kernels.threads import share

MULTIPLE = 32
"""Of the sizes that the functions take."""
ROWS, TILE, LINE = 96, 12, 64
"""Rows of a block, the least that a thread takes, rows of a product, and bytes of a row of a strip, as in
``kernels/products.h``.
"""
PIECE = 10 * ROWS
"""Rows whose factors of the gradients of weights are held at once, unless there are more threads than blocks in it."""
FEWEST = 4 * ROWS
"""Rows in float32 from which on it pays to pack the weights: for fewer, PyTorch's products leave them as they are."""
SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
"""What the names of the functions end with, by the type of the numbers that they multiply."""


def suits(x: Tensor, *layers: nn.LayerNorm | nn.Linear) -> bool:
    """Whether the functions take x (T, H) and these layers, and are worth it."""
    if not has_kernels(x) or x.ndim != 2 or not has_avx512():
        return False
    numbers = _multiplied()
    if numbers is None or x.dtype != (torch.float32 if isinstance(layers[0], nn.LayerNorm) else numbers):
        return False
    return (numbers == torch.bfloat16 or len(x) >= FEWEST) and are_usable(layers, x, MULTIPLE, ROWS)


def _multiplied() -> torch.dtype | None:
    """The type of the numbers whose products are the functions', if they are."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 and _multiplies_bf16() else None


def _multiplies_bf16() -> bool:
    return has_bf16_products() and not torch.cpu._is_amx_tile_supported()


def project(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``F.linear(norm(x), weight, bias)`` (T, I), under autocast in its type, of x (T, H) float32, and x.

    What else is computed of x shall be computed of that, so that its gradient is added on the way.
    """
    given = _multiplied(), norm.eps, x.contiguous(), *_parameters(norm), weight.contiguous(), bias.contiguous()
    output, x = cast("tuple[Tensor, Tensor]", _NormLinear.apply(*given))
    return output, x


def add_linear(x: Tensor, linear: nn.Linear, residual: Tensor | None) -> Tensor:
    """``linear(x)`` (T, I) float32 of x (T, H), added to `residual` (T, I) float32 if there is one."""
    whole = None if residual is None else residual.contiguous()
    return as_tensor(_Linear.apply(x.contiguous(), whole, *_parameters(linear)))


def feed_forward(
    x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear, *, adds: bool, approximate: str
) -> Tensor:
    """``down(gelu(up(norm(x))))`` (T, H) of x (T, H), both float32, and x if it `adds`; GELU as ``F.gelu`` has it."""
    options = _multiplied(), norm.eps, adds, approximate == "none", torch.is_grad_enabled()
    return as_tensor(_FeedForward.apply(*options, x.contiguous(), *_parameters(norm, up, down)))


def packed_multiplication(matrix: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The function from rows (N, inputs) to their products (N, outputs) with `matrix` (outputs, inputs), without gradients,
    all in its type; None if the functions in C do not suit.

    The matrix is packed once for all rows. Its sizes are filled up with zeros to multiples.
    """
    numbers = matrix.dtype
    wanted = numbers == torch.float32 or (numbers == torch.bfloat16 and _multiplies_bf16())
    if torch.is_grad_enabled() or not has_kernels(matrix) or not has_avx512() or not wanted:
        return None
    outputs, inputs = matrix.shape
    right, below = -inputs % MULTIPLE, -outputs % MULTIPLE
    packed = _packed(F.pad(matrix.float(), (0, right, 0, below)), numbers)
    wide, deep = packed.shape

    def multiply(rows: Tensor) -> Tensor:
        x = F.pad(rows.to(numbers), (0, right)).contiguous()
        output = torch.empty(len(x), wide)

        def work(first: int, last: int) -> None:
            room = _room(_call("linear_space", numbers, deep, wide))
            addresses = [each.data_ptr() for each in (x, packed, output)]
            _call("columns_of_product", numbers, *addresses, first, last, len(x), deep, wide, room.data_ptr())

        share(work, [1] * (wide // MULTIPLE))
        return output[:, :outputs].to(numbers)

    return multiply


def _parameters(*layers: nn.LayerNorm | nn.Linear) -> list[Tensor]:
    return [each.contiguous() for layer in layers for each in (layer.weight, layer.bias)]


class _NormLinear(torch.autograd.Function):
    """Keeps two numbers of each row, by which the norm is computed again."""

    @staticmethod
    def forward(
        ctx: Any, numbers: torch.dtype, epsilon: float, x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        gain, norm_bias, weight, bias = parameters
        rows, sizes = len(x), (x.shape[1], len(weight))
        output, kept = x.new_empty(rows, len(weight), dtype=numbers), x.new_empty(rows, 2)
        tensors = (x, gain, norm_bias, _packed(weight, numbers), bias, output, kept)
        space = _call("linear_space", numbers, *sizes)
        _over_blocks("norm_linear_forward", numbers, tensors, rows, (*sizes, epsilon), space)
        ctx.numbers = numbers
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
            return None, None, residual, None, None, None, None
        upstream, residual = upstream.contiguous(), None if residual is None else residual.contiguous()
        sizes = (x.shape[1], len(weight))
        gradient, sums = torch.empty_like(x), _sums_of(x)
        normal, above = (_strips(len(x), size, ctx.numbers) for size in sizes)
        packed, of_linear = _packed_back(weight, ctx.numbers), _Gradient(weight, len(x))
        space = _call("linear_space", ctx.numbers, *sizes)
        for piece, blocks in _pieces(len(x)):
            given = (x[piece], gain, norm_bias, packed, kept[piece], upstream[piece])
            more = None if residual is None else residual[piece]
            tensors = (*given, more, gradient[piece], normal, above, sums[blocks])
            rows = len(x[piece])
            _over_blocks("norm_linear_backward", ctx.numbers, tensors, rows, (*sizes, normal.stride(0)), space)
            of_linear.add(rows, above, normal)
        return None, None, gradient, *sums.sum(0), *of_linear.parts


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        rows, sizes = len(x), (x.shape[1], len(weight))
        output = bias.new_empty(rows, len(weight))
        tensors = (x, _packed(weight, x.dtype), bias, residual, output)
        _over_blocks("linear_forward", x.dtype, tensors, rows, sizes, _call("linear_space", x.dtype, *sizes))
        ctx.save_for_backward(x, weight)
        ctx.adds = residual is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        upstream = upstream.contiguous()
        gradient, above = torch.empty_like(x), _strips(len(x), len(weight), x.dtype)
        packed, of_linear = _packed_back(weight, x.dtype), _Gradient(weight, len(x))
        for piece, _ in _pieces(len(x)):
            tensors, rows = (packed, upstream[piece], gradient[piece], above), len(x[piece])
            _over_blocks("linear_backward", x.dtype, tensors, rows, (x.shape[1], len(weight), above.stride(0)))
            of_linear.add(rows, above, _in_strips(x[piece]))
        return gradient, upstream if ctx.adds else None, *of_linear.parts


class _FeedForward(torch.autograd.Function):
    """Keeps what GELU is applied to, and two numbers of each row; the rest is computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        numbers: torch.dtype,
        epsilon: float,
        adds: bool,
        exact: bool,
        keeps: bool,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        gain, norm_bias, up, up_bias, down, down_bias = parameters
        rows, sizes = len(x), (x.shape[1], len(up))
        output, kept = torch.empty_like(x), x.new_empty(rows, 2)
        inner = x.new_empty(_blocks(rows) * ROWS, len(up), dtype=numbers) if keeps else None
        packed = (_packed(up, numbers), up_bias, _packed(down, numbers), down_bias)
        tensors = (x, gain, norm_bias, *packed, output, kept, inner)
        scalars, space = (*sizes, int(adds), int(exact), epsilon), _call("feed_forward_space", numbers, *sizes)
        _over_blocks("feed_forward_forward", numbers, tensors, rows, scalars, space)
        if keeps:
            ctx.scalars = int(adds), int(exact)
            ctx.save_for_backward(x, gain, norm_bias, up, down, kept, inner)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gain, norm_bias, up, down, kept, inner = ctx.saved_tensors
        upstream, numbers = upstream.contiguous(), inner.dtype
        sizes = hidden, wide = x.shape[1], len(up)
        gradient, sums = torch.empty_like(x), _sums_of(x)
        normal, above, active, of_inner = (_strips(len(x), size, numbers) for size in (hidden, hidden, wide, wide))
        packed, of_up, of_down = (
            [_packed_back(each, numbers) for each in (up, down)],
            _Gradient(up, len(x)),
            _Gradient(down, len(x)),
        )
        scalars, space = (*sizes, *ctx.scalars, normal.stride(0)), _call("feed_forward_space", numbers, *sizes)
        for piece, blocks in _pieces(len(x)):
            rows = len(x[piece])
            given = (x[piece], gain, norm_bias, *packed, kept[piece], inner[piece], upstream[piece])
            tensors = (*given, gradient[piece], normal, above, active, of_inner, sums[blocks])
            _over_blocks("feed_forward_backward", numbers, tensors, rows, scalars, space)
            of_up.add(rows, of_inner, normal)
            of_down.add(rows, above, active)
        return *[None] * 5, gradient, *sums.sum(0), *of_up.parts, *of_down.parts


class _Gradient:
    """The gradients of the weight and the bias of a linear layer, piece by piece."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        self.adds: bool = not rows  # the first piece is written, not added to zeros
        room = weight.new_zeros if self.adds else weight.new_empty
        self.parts: tuple[Tensor, Tensor] = room(weight.shape), room(len(weight))

    def add(self, rows: int, above: Tensor, x: Tensor) -> None:
        """Add the products of `rows` of the gradient of the output, `above` (I / S, t, S), and of the input, x
        (H / S, t, S), both in the type that is multiplied, in strips of S numbers.
        """
        outputs, inputs = self.parts[0].shape
        addresses = [each.data_ptr() for each in (above, x, *self.parts)]
        scalars = (rows, above.stride(1), above.stride(0), x.stride(1), x.stride(0), outputs, inputs, self.adds)

        def work(first: int, last: int) -> None:
            room = _room(_call("weights_space", x.dtype, (last - first) * TILE, inputs))
            _call("weights_gradient", x.dtype, *addresses, first, last, *scalars, room.data_ptr())

        share(work, [1] * -(-outputs // TILE))
        self.adds = True


def _blocks(rows: int) -> int:
    return -(-rows // ROWS)


def _pieces(rows: int) -> list[tuple[slice, slice]]:
    """Rows, and the blocks that they are, of each piece."""
    ends = [(first, min(first + _piece(), rows)) for first in range(0, rows, _piece())]
    return [(slice(first, end), slice(first // ROWS, _blocks(end))) for first, end in ends]


def _piece() -> int:
    """Rows of a piece: at least a block for each thread."""
    return PIECE * -(-torch.get_num_threads() * ROWS // PIECE)


def _strips(rows: int, size: int, numbers: torch.dtype) -> Tensor:
    """Room for `size` numbers of each row of a piece of so many `rows`: (size / S, t, S)."""
    strip = LINE // numbers.itemsize
    return torch.empty(size // strip, min(_piece(), _blocks(rows) * ROWS), strip, dtype=numbers)


def _in_strips(x: Tensor) -> Tensor:
    """X (t, H) seen as (H / S, t, S)."""
    return x.unflatten(1, (-1, LINE // x.element_size())).transpose(0, 1)


def _sums_of(x: Tensor) -> Tensor:
    return x.new_empty(_blocks(len(x)), 2, x.shape[1])


def _packed(weight: Tensor, numbers: torch.dtype) -> Tensor:
    """A weight (I, H) for the product with its transpose."""
    return _pack("weights_pack", weight, numbers, len(weight), weight.shape[1:])


def _packed_back(weight: Tensor, numbers: torch.dtype) -> Tensor:
    """A weight (I, H) for the product with it."""
    return _pack("weights_pack_back", weight, numbers, weight.shape[1], weight.shape)


def _pack(name: str, weight: Tensor, numbers: torch.dtype, columns: int, sizes: tuple[int, ...]) -> Tensor:
    panels = torch.empty_like(weight, dtype=numbers)

    def work(first: int, last: int) -> None:
        _call(name, numbers, weight.data_ptr(), panels.data_ptr(), first, last, *sizes)

    share(work, [1] * (columns // MULTIPLE))
    return panels


def _over_blocks(
    name: str,
    numbers: torch.dtype,
    tensors: tuple[Tensor | None, ...],
    rows: int,
    scalars: tuple[float, ...],
    space: int = 0,
) -> None:
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def work(first: int, last: int) -> None:
        room = _room(space)
        _call(name, numbers, *addresses, first, last, rows, *scalars, *((room.data_ptr(),) if space else ()))

    if rows:
        share(work, [1] * _blocks(rows))


def _room(space: int) -> Tensor:
    return torch.empty(space, dtype=torch.uint8)


def _call(name: str, numbers: torch.dtype, *arguments: float | None) -> int:
    return getattr(load_kernels(), f"{name}_{SUFFIXES[numbers]}")(*arguments)
