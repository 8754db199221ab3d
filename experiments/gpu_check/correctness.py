"""Whether the machine computes what it should: each part compares it with something slower that is known to be right."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from experiments.bench.shapes import moved, packed
from experiments.bench.train import Ours
from experiments.gpu_check.record import Finding
from experiments.gpu_check.sizes import Sizes
from proteinlm import optim
from proteinlm.checkpoint import step_of
from proteinlm.config import (
    MaskedLanguageModelConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StrategyConfig,
    TrackingConfig,
    TrainConfig,
)
from proteinlm.data.batches.masking import Masked
from proteinlm.models.attention import attend, boundaries, kernel, rotate, rotation
from proteinlm.models.packed import positions
from proteinlm.records.run_directory import CHECKPOINTS, MODEL, PLAN, RESULT
from proteinlm.training import pretraining

ROUNDING = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""The relative error of a result that is rounded to so few digits a few times."""
HEADS = 4
STEPS = 8


def attention(sizes: Sizes) -> Iterator[Finding]:
    """The packed kernel against each protein alone in float64, forward and backward, at each head dimension."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, sizes.longest + 1, (max(2, 2 * sizes.tokens // sizes.longest),), generator=draw)
    lengths[0], lengths[1] = 1, sizes.longest  # the shortest there can be and the longest
    starts = F.pad(lengths.cumsum(0), (1, 0)).int().to(sizes.device)
    total, longest = int(lengths.sum()), int(lengths.max())
    for dtype, bound in ROUNDING.items():
        for dim in sizes.head_dims:
            for rotary in (False, True):
                turns = rotation(positions(starts, total), dim) if rotary else None
                values = torch.randn(2, total, HEADS, 3, dim, generator=draw).to(sizes.device, dtype)
                joint, slope = values[0].requires_grad_(), values[1, :, :, 0]
                output = attend(joint, boundaries(starts, longest, dtype)._replace(rotation=turns))
                output.backward(slope)
                exact = values[0].detach().double().requires_grad_()
                expected = torch.cat(
                    [_alone(exact[a:b], None if turns is None else turns[a:b]) for a, b in pairwise(starts.tolist())]
                )
                expected.backward(slope.double())
                assert joint.grad is not None
                assert exact.grad is not None
                name = f"{kernel(sizes.device, dtype)}, {str(dtype)[6:]}, head dimension {dim}{', rotary' * rotary}"
                yield Finding(f"{name}: relative error", relative(output, expected), most=bound)
                yield Finding(f"{name}: of the gradient", relative(joint.grad, exact.grad), most=2 * bound)


def _alone(joint: Tensor, turns: Tensor | None) -> Tensor:
    """Attention of one protein by its definition, (L, N, D) of (L, N, 3, D)."""
    query, key, value = joint.unbind(-2)
    if turns is not None:
        query, key = rotate(torch.stack((query, key), dim=-2).float(), turns).double().unbind(-2)
    scores = torch.einsum("qnd,knd->nqk", query, key) / joint.shape[-1] ** 0.5
    return torch.einsum("nqk,knd->qnd", scores.softmax(-1), value)


def training_step(sizes: Sizes) -> Iterator[Finding]:
    """Loss, gradient and updated weights of one step against float32 on the CPU."""
    [batch] = packed(sizes.tokens, 1, torch.device("cpu"), sizes.longest)
    expected = _step(sizes.checked, batch, torch.device("cpu"), None)
    # TF32 and reduced sums off: this run must agree to float32's rounding
    torch.set_float32_matmul_precision("highest")
    for name, dtype, bound in (("float32", None, 1e-4), ("bf16-mixed", torch.bfloat16, 3e-2)):
        found = _step(sizes.checked, moved(batch, sizes.device), sizes.device, dtype)
        for what in ("loss", "gradient", "update"):
            # Adam's first update is the gradient's sign: elements near zero turn over, and each counts fully
            loosened = 30 * bound if what == "update" else bound
            yield Finding(f"{name}: relative error of the {what}", relative(found[what], expected[what]), most=loosened)


def _step(config: ModelConfig, batch: Masked, device: torch.device, dtype: torch.dtype | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Ours(config)
    before = _flat(parameter.detach() for parameter in model.parameters())
    model.to(device)
    optimizer, _ = optim.build(model, OptimConfig(warmup_fraction=0.0), 10, config)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model(batch) / len(batch.targets)
    loss.backward()
    gradient = _flat(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    optim.clip(model.parameters(), 1.0)
    optimizer.step()
    update = _flat(parameter.detach() for parameter in model.parameters()) - before
    return {"loss": loss.detach().cpu(), "gradient": gradient, "update": update}


def compiled(sizes: Sizes) -> Iterator[Finding]:
    """Compiled blocks against the same blocks uncompiled, on batches of several sizes, and the graphs that it took."""
    torch.manual_seed(0)
    model = Ours(sizes.checked).to(sizes.device).eval()
    batches = [
        batch
        for share in (1, 2, 3, 4)
        for batch in packed(sizes.tokens * share // 4, 1, sizes.device, min(sizes.longest, sizes.tokens // 4 - 2))
    ]
    with torch.autocast(sizes.device.type, torch.bfloat16), torch.no_grad():
        expected = [_hidden(model, batch) for batch in batches]
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        for block in model.backbone.blocks:
            block.compile(dynamic=True, backend=sizes.compiler)
        found = [_hidden(model, batch) for batch in batches]
    error = max(relative(one, two) for one, two in zip(found, expected, strict=True))
    yield Finding("relative difference of hidden states", error, most=2e-2)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    blocks = sizes.checked.num_layers
    yield Finding(f"graphs of {blocks} blocks for {len(batches)} sizes of batch", float(graphs), most=2.0 * blocks)


def resumed(sizes: Sizes) -> Iterator[Finding]:
    """A pretraining divided by FSDP2, gone on with from its middle, against the undisturbed one."""
    with TemporaryDirectory() as place:
        config = run_config(sizes, Path(place), "resumed", StrategyConfig(name="fsdp"))
        whole, again = _run_twice(config)
    yield Finding("largest difference of a weight, in learning rates", _furthest(whole, again, config), most=0.5)


def deterministic(sizes: Sizes) -> Iterator[Finding]:
    """With train.deterministic=true two runs, one of them gone on with from its middle, give the same bits."""
    with TemporaryDirectory() as place:
        config = run_config(sizes, Path(place), "deterministic", StrategyConfig(), deterministic=True)
        whole, again = _run_twice(config)
        other = run_config(sizes, Path(place), "second", StrategyConfig(), deterministic=True)
        pretraining.run(other)
        second = _weights(other)
    for name, found in (("gone on with", again), ("run again", second)):
        different = sum(not torch.equal(found[key], whole[key]) for key in whole)
        yield Finding(f"tensors with other bits, {name}", float(different), most=0.0)


def memory(sizes: Sizes) -> Iterator[Finding]:
    """The planner's bytes against those that the allocator gave at most."""
    for activations in ("keep", "recompute"):
        with TemporaryDirectory() as place:
            strategy = StrategyConfig(activations=activations)
            config = run_config(sizes, Path(place), activations, strategy, micro_batch_tokens=sizes.timed_tokens)
            if sizes.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            pretraining.run(config)
            compared = json.loads((pretraining.directory_of(config) / PLAN).read_text())["memory"]
        planned = sum(value for name, value in compared["planned"].items() if name != "reserve")
        yield Finding(f"activations={activations}: planned, reserve left out", planned / 1e9, "GB")
        if compared["measured"] is None:  # a CPU's allocator keeps no count
            continue
        yield Finding(f"activations={activations}: allocated at most", compared["measured"] / 1e9, "GB")
        apart = abs(compared["measured"] / planned - 1)
        yield Finding(f"activations={activations}: relative difference", apart, most=0.2)


def run_config(
    sizes: Sizes,
    place: Path,
    name: str,
    strategy: StrategyConfig,
    deterministic: bool = False,
    micro_batch_tokens: int | None = None,
) -> RunConfig:
    """A pretraining of eight steps on the embedded universe, with a checkpoint in its middle."""
    budget = micro_batch_tokens or sizes.run_tokens
    return RunConfig(
        name=name,
        output=str(place),
        data=sizes.universe,
        strategy=strategy,
        tracking=TrackingConfig(backend="csv"),
        model=sizes.run,
        task=MaskedLanguageModelConfig(),
        optim=OptimConfig(learning_rate=1e-3, min_learning_rate=1e-4),
        train=TrainConfig(
            accelerator=sizes.device.type,
            threads=sizes.threads,
            deterministic=deterministic,
            tokens=STEPS * 2 * budget,
            step_tokens=2 * budget,
            micro_batch_tokens=budget,
            validations=2,
            validation_tokens=4 * budget,
            checkpoint_seconds=1e9,
        ),
    )


def _run_twice(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a whole run, and those after it has lost its second half and gone on."""
    pretraining.run(config)
    whole = _weights(config)
    directory = pretraining.directory_of(config)
    (directory / RESULT).unlink()
    shutil.rmtree(directory / MODEL)
    last = max((directory / CHECKPOINTS).glob("step-*.ckpt"), key=step_of)
    assert step_of(last) == STEPS
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    pretraining.run(config)
    return whole, _weights(config)


def _weights(config: RunConfig) -> dict[str, Tensor]:
    return load_file(pretraining.directory_of(config) / MODEL / "model.safetensors")


def _furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor], config: RunConfig) -> float:
    # a bias of keys has no effect, and no gradient but noise
    names = [name for name in theirs if "query_key_value.bias" not in name]
    return max(float((ours[name] - theirs[name]).abs().max()) for name in names) / config.optim.learning_rate


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, as a share of the expected norm; nan if anything is not a number."""
    reference = expected.detach().double().cpu()
    return float((found.detach().double().cpu() - reference).norm() / reference.norm())


def _hidden(model: Ours, batch: Masked) -> Tensor:
    return model.backbone(batch.packed.tokens, batch.packed.starts, batch.packed.longest)


def _flat(tensors: Iterator[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
