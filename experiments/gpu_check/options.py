"""Options of pretraining that need a GPU of their own kind: each beside the same without it, in numbers and in speed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.bench import shapes as timed
from experiments.bench.train import Ours
from experiments.gpu_check.correctness import relative
from experiments.gpu_check.record import Finding, Needs
from experiments.gpu_check.sizes import Sizes
from proteinlm.data.batches.masking import Masked
from proteinlm.errors import InputError
from proteinlm.parallel.fp8 import multiply_in_fp8, require_fp8

WIDEST = 2048
"""Hidden size up to which a model is timed: a wider one may not fit."""
ROUNDING_IN_FP8 = 0.25
"""The relative error of a gradient whose factors have three bits, and two where they are gradients."""


def fp8(sizes: Sizes) -> Iterator[Finding]:
    """Loss and gradient of one micro-batch with blocks in fp8 against bf16, then the speed of a step of each."""
    try:
        if sizes.device.type == "cuda":
            require_fp8(sizes.device)
        else:
            multiply_in_fp8([])
    except InputError as error:
        raise Needs(error) from None
    [batch] = timed.packed(sizes.tokens, 1, sizes.device, sizes.longest)
    expected, found = (_loss_and_gradient(sizes, batch, in_fp8) for in_fp8 in (False, True))
    yield Finding("relative difference of the loss", relative(found[0], expected[0]), most=1e-2)
    yield Finding("relative difference of the gradient", relative(found[1], expected[1]), most=ROUNDING_IN_FP8)
    torch.set_float32_matmul_precision("high")
    config = next(one for one in reversed(sizes.shapes) if one.hidden_size <= WIDEST)
    speeds = []
    for name, in_fp8 in (("bf16", False), ("fp8", True)):
        one = timed.measure(config, sizes.timed_tokens, sizes.device, sizes.longest, sizes.compiler, fp8=in_fp8)
        speeds.append(one.tokens / one.seconds)
        yield Finding(f"{config.hidden_size} x {config.num_layers}, {name}: speed", speeds[-1], "tokens/s")
        if one.memory:
            yield Finding(f"{config.hidden_size} x {config.num_layers}, {name}: memory", one.memory / 1e9, "GB")
    yield Finding("fp8 / bf16", speeds[1] / speeds[0], "times")


def _loss_and_gradient(sizes: Sizes, batch: Masked, in_fp8: bool) -> tuple[Tensor, Tensor]:
    """Of a model with random weights, the same each time."""
    torch.manual_seed(0)
    model = Ours(sizes.checked).to(sizes.device)
    if in_fp8:
        multiply_in_fp8(model.backbone.blocks)
    with torch.autocast(sizes.device.type, torch.bfloat16):
        loss = model(batch) / len(batch.targets)
    gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return loss.detach(), torch.cat([each.flatten().float() for each in gradient if each is not None])
