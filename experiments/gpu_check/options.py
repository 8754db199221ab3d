"""Options of pretraining that need a GPU of their own kind: each beside the same without it, in numbers and in speed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.bench import shapes as timed
from experiments.bench.train import Ours
from experiments.gpu_check.correctness import relative
from experiments.gpu_check.record import Finding, Needs
from experiments.gpu_check.sizes import Sizes
from proteinlm import optim
from proteinlm.config import OptimConfig
from proteinlm.data.batches.fixed_shapes import FixedShapes
from proteinlm.data.batches.masking import Masked
from proteinlm.errors import InputError
from proteinlm.parallel.cuda_graphs import StepGraphs, require_cuda_graphs
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


def cuda_graphs(sizes: Sizes) -> Iterator[Finding]:
    """Steps of several replayed micro-batches against the same ones computed eagerly, then the speed of both.

    On a CPU the passes are done again in Python, and the part ends by saying what it needs.
    """
    device, longest = sizes.device, sizes.longest + 1
    batches = timed.packed(sizes.tokens // 2, 2, torch.device("cpu"), sizes.longest)
    batches += timed.packed(sizes.tokens, 2, torch.device("cpu"), min(sizes.longest, 40))  # of more proteins
    shapes = FixedShapes(sizes.tokens, longest, 15)
    expected = _steps(sizes, [timed.moved(batch, device) for batch in batches], None)
    filled = [timed.moved(shapes.fill(batch), device) for batch in batches]
    found = _steps(sizes, filled, longest)
    yield Finding("shapes of micro-batches", float(len({batch.packed.starts.shape for batch in filled})), most=2)
    for name, bound in (("loss", 1e-3), ("gradient", 2e-2), ("loss after an update", 1e-3)):
        yield Finding(f"relative difference of the {name}", relative(found[name], expected[name]), most=bound)
    torch.set_float32_matmul_precision("high")
    config = sizes.shapes[0]
    for micro_batch in (max(2 * longest, sizes.timed_tokens // 8), sizes.timed_tokens):
        speeds = []
        for name, replayed in (("launched", False), ("replayed", True)):
            one = timed.measure(config, micro_batch, device, sizes.longest, sizes.compiler, replayed=replayed)
            speeds.append(one.tokens / one.seconds)
            what = f"{config.hidden_size} x {config.num_layers}, {micro_batch:,} tokens, {name}"
            yield Finding(f"{what}: speed", speeds[-1], "tokens/s")
            if one.memory:
                yield Finding(f"{what}: memory", one.memory / 1e9, "GB")
        yield Finding(f"replayed / launched, {micro_batch:,} tokens", speeds[1] / speeds[0], "times")
    try:
        require_cuda_graphs(device, "bf16-mixed")
    except InputError as error:
        raise Needs(error) from None


def _steps(sizes: Sizes, batches: list[Masked], longest: int | None) -> dict[str, Tensor]:
    """Loss and gradient of a step of all `batches`, and the loss after it; replayed if a `longest` protein is given."""
    torch.manual_seed(0)
    model = Ours(sizes.checked).to(sizes.device)
    optimizer, _ = optim.build(model, OptimConfig(warmup_fraction=0.0), 10, sizes.checked)
    graphs = StepGraphs(timed.loss_of(model, longest), model.parameters()) if longest else None

    def losses() -> Tensor:
        total = torch.zeros((), device=sizes.device)
        for number, batch in enumerate(batches):
            with torch.autocast(sizes.device.type, torch.bfloat16):
                if graphs:
                    graphs.load(*timed.tensors(batch))
                loss = graphs.forward(1.0) if graphs else model(batch)
            if graphs and not number:
                graphs.clear_gradients()
            graphs.backward() if graphs else loss.backward()
            total += loss.detach()
        return total

    before = losses()
    gradient = torch.cat([one.grad.flatten().clone() for one in model.parameters() if one.grad is not None])
    optimizer.step()
    if not graphs:
        optimizer.zero_grad()
    return {"loss": before, "gradient": gradient, "loss after an update": losses()}


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
