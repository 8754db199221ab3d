"""What a run takes, before it starts: memory, work, communication, time and money, and what to change if it cannot fit.

Parameters, FLOPs, and the memory of weights, gradients and optimiser are exact; activations are counted tensor by tensor
as the blocks save them for the backward pass; time rests on what others have measured (`UTILISATION`) and is a band.
Imports no torch.

T tokens of a micro-batch, H hidden size, L layers, W processes, P parameters.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from proteinlm import transfer
from proteinlm.config import BaselineConfig, LanguageModelConfig, ModelConfig, RunConfig, StrategyConfig
from proteinlm.errors import InputError
from proteinlm.parallel import plan as cuts

FP32, BF16 = 4, 2  # bytes


@dataclass(frozen=True)
class Hardware:
    """What one process computes on."""

    name: str
    memory: float
    """Bytes."""
    cuda: bool = True
    peak: float | None = None
    """FLOP/s of dense bf16 products; None where nobody knows."""
    link: float = 0.0
    """Bytes per second between the processes of a node."""
    network: float = 0.0
    """Bytes per second between nodes, for each process."""


HARDWARE = {
    "h200": Hardware("H200", 141e9, True, 989.4e12, 450e9, 50e9),
    "h100": Hardware("H100", 80e9, True, 989.4e12, 450e9, 50e9),
    "a100": Hardware("A100", 80e9, True, 312e12, 300e9, 25e9),
    "v100": Hardware("V100", 32e9, True, 125e12, 150e9, 12.5e9),
}
"""Data sheets: memory, dense bf16 (V100: fp16), NVLink in one direction, and the usual network of its time."""


def hardware(name: str, memory: float) -> Hardware:
    """A GPU by the name and the memory that its driver gives."""
    known = next((row for key, row in HARDWARE.items() if key.upper() in name.upper()), None)
    return replace(known, memory=memory) if known else Hardware(name, memory)


def named(name: str, processes: int) -> Hardware:
    """Hardware by its key in `HARDWARE`, or ``cpu``: this machine's, shared by `processes`."""
    if name not in HARDWARE and name != "cpu":
        raise InputError(f"hardware={name} is not one of {', '.join(HARDWARE)}, cpu")
    return HARDWARE[name] if name in HARDWARE else processor(processes)


def processor(processes: int) -> Hardware:
    """The processor of this machine, shared by so many processes."""
    return Hardware("CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes, cuda=False)


@dataclass(frozen=True)
class Utilisation:
    """Share of the peak that a training step reaches at a hidden size."""

    hidden_size: int
    low: float
    high: float
    source: str


UTILISATION = (
    Utilisation(512, 0.20, 0.28, "extrapolated from 768"),
    Utilisation(768, 0.26, 0.43, "SpeedrunningPLMs 132M, one GH200: 26 %; llm-foundry MPT-125M, A100: 42.6 %"),
    Utilisation(1024, 0.33, 0.51, "nanoPLM 400M, GH200: 33 to 36 %; llm-foundry MPT-350M, A100: 50.6 %"),
    Utilisation(1280, 0.43, 0.59, "BioNeMo ESM-2 650M: 16 H100 43 %, one A100 59.2 %"),
    Utilisation(
        2048, 0.41, 0.52, "Megatron-LM 1.7B, 48 H100: 41 %; llm-foundry MPT-1.3B, 8 H100: 43.2 %; above: extrapolated"
    ),
    Utilisation(
        2560, 0.46, 0.61, "llm-foundry MPT-3B, 8 H100: 46.3 %; BioNeMo ESM-2 3B: 16 H100 49 %, 256 A100 60.6 %"
    ),
    Utilisation(4096, 0.46, 0.55, "llm-foundry MPT-7B, 8 H100: 46.4 %; BioNeMo ESM-2 15B (5120), 8 H200: 54.6 %"),
)
"""Width decides, depth does not. Below 1024 a step waits for memory and launches. All compiled, with fused kernels."""


@dataclass(frozen=True)
class Proteins:
    """What the planner needs to know of a corpus."""

    count: int
    tokens: int
    """Residues and one [CLS] each, after cropping."""
    squares: int
    """Sum over the proteins of their squared lengths in tokens."""
    longest: int
    """Tokens of the longest."""

    @classmethod
    def of(cls, lengths: np.ndarray, positions: int) -> "Proteins":
        """Of proteins with `lengths` (N,) residues, cropped to `positions` tokens."""
        tokens = np.minimum(lengths.astype(np.int64) + 1, positions)
        return cls(len(tokens), int(tokens.sum()), int((tokens**2).sum()), int(tokens.max()))

    @property
    def attended(self) -> float:
        """Tokens that a token attends to, on average: packing attends within proteins alone."""
        return self.squares / self.tokens


PFAM = Proteins(32_593_668, 5_592_000_000, 1_400_000_000_000, 2_176)
"""TAPE's Pfam, its lengths taken as log-normal with median 141 and 0.62 in the logarithm."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, that with the most."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    """Kept for the backward pass."""
    working: float
    """Gathered weights and what the backward pass makes and drops."""
    reserve: float
    """Of the runtime, and what allocation leaves unused."""

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimiser

    @property
    def total(self) -> float:
        return self.states + self.activations + self.working + self.reserve

    def __str__(self) -> str:
        names = ("weights", "gradients", "optimiser", "activations", "working", "reserve")
        return ", ".join(f"{name} {gigabytes(getattr(self, name))}" for name in names)


@dataclass(frozen=True)
class Plan:
    """What one run takes."""

    config: RunConfig
    hardware: Hardware
    proteins: Proteins
    parameters: int
    flops_per_token: float
    kernel: str
    memory: Memory
    received: float
    """Bytes that one process receives in an optimiser step."""
    utilisation: Utilisation
    speed: tuple[float, float] | None
    """Tokens per second of all processes together, at least and at most."""
    epochs: float
    optimal_tokens: tuple[float, float] | None
    """None without attention: the fits are to Transformers."""

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.config.train.tokens

    @property
    def hours(self) -> tuple[float, float] | None:
        """At least and at most."""
        return self.speed and (
            self.config.train.tokens / self.speed[1] / 3600,
            self.config.train.tokens / self.speed[0] / 3600,
        )


def plan(config: RunConfig, proteins: Proteins, hardware: Hardware) -> Plan:
    """Plan a run of `config` over `proteins` with its processes on `hardware`."""
    model = config.backbone
    percent = config.task.target_percent if isinstance(config.task, LanguageModelConfig) else 15
    targets = percent * (proteins.tokens - proteins.count) // 100
    per_token = model.training_flops(proteins.tokens, proteins.squares, targets) / proteins.tokens
    utilisation = utilised(model.hidden_size)
    received = communication(config, mixed(config, hardware))
    return Plan(
        config=config,
        hardware=hardware,
        proteins=proteins,
        parameters=model.parameters,
        flops_per_token=per_token,
        kernel=kernel(model, hardware.cuda and mixed(config, hardware)),
        memory=memory(config, hardware),
        received=received,
        utilisation=utilisation,
        speed=_speed(config, hardware, per_token, utilisation, received) if model.num_heads else None,
        epochs=config.train.tokens / proteins.tokens,
        optimal_tokens=optimal_tokens(model) if model.num_heads else None,
    )


def mixed(config: RunConfig, hardware: Hardware) -> bool:
    """Whether products are computed in bf16."""
    return config.train.precision == "bf16-mixed" or (config.train.precision == "auto" and hardware.cuda)


def tensors(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by name, in the order of the model, with its language-model head."""
    if isinstance(model, BaselineConfig):
        return model.tensors()
    hidden, inner = model.hidden_size, model.intermediate_size

    def linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outputs, inputs)
        yield f"{name}.bias", (outputs,)

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (hidden,)
        yield f"{name}.bias", (hidden,)

    def everything() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "backbone.token_embedding.weight", (model.vocab_size, hidden)
        if model.positions == "learned":
            yield "backbone.position_embedding.weight", (model.max_positions, hidden)
        for block in (f"backbone.blocks.{index}" for index in range(model.num_layers)):
            yield from norm(f"{block}.attention_norm")
            yield from linear(f"{block}.attention.query_key_value", hidden, 3 * hidden)
            yield from linear(f"{block}.attention.output", hidden, hidden)
            yield from norm(f"{block}.feed_forward_norm")
            yield from linear(f"{block}.feed_forward.up", hidden, inner)
            yield from linear(f"{block}.feed_forward.down", inner, hidden)
            if model.feed_forward == "gated":
                yield from linear(f"{block}.feed_forward.gate", hidden, inner)
        yield from norm("backbone.norm")
        yield "head.bias", (model.vocab_size,)
        yield from linear("head.dense", hidden, hidden)
        yield from norm("head.norm")

    return dict(everything())


def held(model: ModelConfig, strategy: StrategyConfig) -> dict[str, int]:
    """Numbers of each parameter that a process holds, at most."""
    return {n: _rows(_cut(n, shape, strategy.tensor_size), strategy.shards) for n, shape in tensors(model).items()}


def _cut(name: str, shape: tuple[int, ...], processes: int) -> tuple[int, ...]:
    """What tensor parallelism leaves of a parameter."""
    side = next((side for layer, side in cuts.BLOCK.items() if f".{layer}." in name), None)
    if side is None or (side == "row" and len(shape) == 1):
        return shape
    return (shape[0] // processes, *shape[1:]) if side == "column" else (shape[0], shape[1] // processes)


def _fullest(config: RunConfig) -> int:
    """Numbers that the fullest process remembers under ``ddp_sharded``: fairscale gives each parameter to the process with
    the fewest numbers, group after group of `optim.build`.
    """
    groups: dict[tuple[bool, int, float], list[str]] = {}
    shapes = tensors(config.backbone)
    for matrices in (True, False):
        for name in (name for name, shape in shapes.items() if (len(shape) >= 2) is matrices):
            moments = _moments(config, name)
            factor = transfer.rate(name, config.backbone, muon=moments == 1)
            groups.setdefault((matrices, moments, factor), []).append(name)
    sizes, remembered = [0] * config.strategy.processes, [0] * config.strategy.processes
    for name in (name for group in groups.values() for name in group):
        process = sizes.index(min(sizes))
        sizes[process] += prod(shapes[name])
        remembered[process] += _moments(config, name) * prod(shapes[name])
    return max(remembered)


def _rows(shape: tuple[int, ...], processes: int) -> int:
    """Numbers in the largest share of whole rows."""
    return ceil(shape[0] / processes) * prod(shape[1:])


def memory(config: RunConfig, hardware: Hardware) -> Memory:
    """Bytes of the process that has the most."""
    model, strategy = config.backbone, config.strategy
    mine = held(model, strategy)
    parameters = sum(mine.values())
    remembered = {name: count * _moments(config, name) for name, count in mine.items()}
    optimiser = _fullest(config) if strategy.name == "ddp_sharded" else sum(remembered.values())
    activations, working = _activations(config, mixed(config, hardware))
    return Memory(
        weights=FP32 * parameters,
        gradients=FP32 * parameters,
        optimiser=FP32 * optimiser,
        activations=activations,
        working=working,
        reserve=1.5e9 + 0.05 * (activations + working) if hardware.cuda else 0.4e9,
    )


def _moments(config: RunConfig, name: str) -> int:
    """Numbers that the optimiser remembers of each number of a parameter: Muon has one moment, AdamW two."""
    matrix = ".blocks." in name and len(tensors(config.backbone)[name]) == 2
    return 1 if matrix and config.optim.matrices == "muon" else 2


def _activations(config: RunConfig, mixed: bool) -> tuple[float, float]:
    """Bytes kept for the backward pass of a micro-batch, and bytes made and dropped on the way."""
    model, strategy, tokens = config.backbone, config.strategy, config.train.micro_batch_tokens
    hidden, layers = model.hidden_size, model.num_layers
    block = tokens * saved_by_block(model, strategy.tensor_size, mixed)
    stream = FP32 * hidden * tokens  # the residual stream is never bf16
    narrow = BF16 if mixed else FP32
    head = 0.15 * tokens * (FP32 * 3 * hidden + narrow * 2 * hidden + 3 * FP32 * model.vocab_size)
    ends = 2 * stream + tokens * hidden * (model.dropout > 0) + head
    blocks = {
        "keep": layers * block,
        "recompute": layers * stream + block,
        "recompute_offload": 2 * stream + block,
    }[strategy.activations]
    weights = held(model, strategy)
    matrices = sum(count for name, count in weights.items() if ".blocks." in name) / layers
    gathering = strategy.name in ("fsdp", "hsdp", "fsdp_tensor")
    whole = sum(prod(shape) for name, shape in tensors(model).items() if ".blocks." in name) / layers
    whole /= strategy.tensor_size
    if mixed:
        # autocast keeps a bf16 copy of each matrix until the backward pass, of a gathered one even when that is freed
        each = BF16 * (whole if gathering else matrices)
        blocks += each * (layers if strategy.activations == "keep" else 1)
    working = 16 * narrow * hidden * tokens / strategy.tensor_size + 2 * stream
    if gathering:
        rest = sum(prod(shape) for name, shape in tensors(model).items() if ".blocks." not in name)
        working += FP32 * (3 * whole + 2 * rest)  # this block, the next, and gradients; the tables stay gathered
    return blocks + ends, working


def saved_by_block(model: ModelConfig, tensor_size: int, mixed: bool) -> float:
    """Bytes per token that a block saves for its backward pass.

    Both LayerNorms and dropouts work on the fp32 residual stream, and save their inputs and masks; the products' inputs,
    the query, key and value, the attention's output and both sides of the GELU are in the precision of the products.
    """
    if isinstance(model, BaselineConfig):
        return model.kept * (BF16 if mixed else FP32)
    hidden, dropout = model.hidden_size, model.dropout > 0
    inner = model.intermediate_size / hidden
    narrow = BF16 if mixed else FP32
    whole = 2 * FP32 + 2 * narrow + 2 * dropout  # LayerNorm inputs and outputs, masks
    # query, key and value; attention's output; GELU's input and output, and where it gates, the other factor and the product
    divided = (3 + 1 + (2 if model.feed_forward == "gelu" else 4) * inner) * narrow
    if model.positions == "rotary":
        divided += 2 * narrow + (0 if narrow == FP32 else 2 * FP32)  # turned queries and keys
    return hidden * (whole + divided / tensor_size)


def kernel(model: ModelConfig, fused: bool) -> str:
    """The attention that a head dimension gets."""
    if not model.num_heads:
        return "no attention"
    dim = model.head_dim
    if not fused:
        return f"scaled_dot_product_attention, head dimension {dim}"
    tile = next((tile for tile in (32, 64, 96, 128, 192, 256) if dim <= tile), None)
    if tile is None:
        return f"none: head dimension {dim} is above 256"
    return f"varlen_attn, head dimension {dim}" + (f" in tiles of {tile}" if tile != dim else "")


def communication(config: RunConfig, mixed: bool) -> float:
    """Bytes that a process receives in an optimiser step, by ring algorithms."""
    strategy, model = config.strategy, config.backbone
    weights = FP32 * sum(held(model, strategy).values())
    micro = config.train.micro_batches // strategy.data_processes
    tensor, shards = strategy.tensor_size, strategy.shards
    total = 0.0
    if strategy.name in ("ddp", "ddp_sharded"):
        total += (2 if strategy.name == "ddp" else 3) * weights * _others(strategy.processes)
    if strategy.name in ("fsdp", "hsdp", "fsdp_tensor"):  # gathered twice, gradients reduced, in each micro-batch
        total += 3 * micro * weights * shards * _others(shards)
        total += 2 * weights * _others(strategy.replicas_made)
    if tensor > 1:  # two sums forward and two backward in each block
        row = (BF16 if mixed else FP32) * model.hidden_size * config.train.micro_batch_tokens
        total += 2 * 4 * model.num_layers * row * micro * _others(tensor)
    return total


def _others(processes: int) -> float:
    return (processes - 1) / processes


def utilised(hidden_size: int) -> Utilisation:
    """What is known at the largest hidden size not above this one; in proportion below the smallest."""
    if hidden_size < (least := UTILISATION[0]).hidden_size:
        share = hidden_size / least.hidden_size
        return replace(least, low=least.low * share, high=least.high * share)
    return max((row for row in UTILISATION if row.hidden_size <= hidden_size), key=lambda row: row.hidden_size)


def _speed(
    config: RunConfig, hardware: Hardware, per_token: float, utilisation: Utilisation, received: float
) -> tuple[float, float] | None:
    """Tokens per second: what is not tensor parallel hides behind the computation, as far as that lasts."""
    peak = hardware.peak
    if peak is None:
        return None
    strategy, tokens = config.strategy, config.train.step_tokens
    bandwidth = hardware.link if strategy.nodes == 1 else hardware.network
    if strategy.name == "hsdp":
        bandwidth = hardware.link  # nearly all of it stays inside a node
    waiting = received / bandwidth

    def speed(share: float) -> float:
        computing = tokens * per_token / (strategy.processes * share * peak)
        exposed = waiting if strategy.tensor_size > 1 else max(0.0, waiting - computing)
        return tokens / (computing + exposed)

    return speed(utilisation.low), speed(utilisation.high)


def optimal_tokens(model: ModelConfig) -> tuple[float, float]:
    """Tokens at which this size is the best use of its compute, by two published fits for masked language models.

    Cheng et al., NeurIPS 2024: N = 6.19e-8 C^0.776 and D = 2.02e6 C^0.230 (figure), or 1.36e-7 C^0.760 and 6.15e5 C^0.256
    (notebook), without embeddings. Serrano et al. (arXiv 2406.07249) find the opposite exponents: no reason to refuse.
    """
    size = 12 * model.num_layers * model.hidden_size**2
    fits = ((6.19e-8, 0.776, 2.02e6, 0.230), (1.36e-7, 0.760, 6.15e5, 0.256))
    tokens = [d * ((size / n) ** (1 / a)) ** b for n, a, d, b in fits]
    return min(tokens), max(tokens)


def check(config: RunConfig, proteins: Proteins, hardware: Hardware) -> Plan:
    """The plan, or `InputError` with the smallest change that would fit; ``force=true`` lets everything pass."""
    made = plan(config, proteins, hardware)
    if not config.force and (problem := _problem(made)):
        remedy = next(
            (change for change, tried in _changes(made) if not _problem(plan(tried, proteins, hardware))), None
        )
        hint = f"{remedy} would fit" if remedy else "no single knob would make it fit"
        raise InputError(f"{problem}: {hint} (force=true tries all the same)")
    return made


def _problem(made: Plan) -> str | None:
    config, model = made.config, made.config.backbone
    if made.kernel.startswith("none"):
        return (
            f"model.num_heads={model.num_heads} gives no attention kernel, head dimension {model.head_dim} is above 256"
        )
    if made.memory.total > made.hardware.memory:
        needed, there = gigabytes(made.memory.total), gigabytes(made.hardware.memory)
        return f"{needed} are needed in each process and {made.hardware.name} has {there} ({made.memory})"
    if config.train.max_epochs and made.epochs > config.train.max_epochs:
        most = f"train.max_epochs={config.train.max_epochs:g}"
        return f"train.tokens={config.train.tokens} are {made.epochs:.1f} epochs, more than {most}"
    return None


Change = dict[str, Any]
"""New values of some knobs."""


def _changes(made: Plan) -> Iterator[tuple[str, RunConfig]]:
    """What to try, as on the command line and as a config, from the smallest change to the largest."""
    for change in _candidates(made):
        try:
            tried = changed(made.config, change)
        except InputError:
            continue
        yield " ".join(f"{knob}={value}" for knob, value in change.items()), tried


def _candidates(made: Plan) -> Iterator[Change]:
    """Less at once, more computation, other divisions, more processes; only then another model or budget."""
    strategy, train = made.config.strategy, made.config.train
    smaller: list[Change] = []
    tokens = train.micro_batch_tokens
    while tokens % 2 == 0 and tokens // 2 >= made.proteins.longest:
        tokens //= 2
        smaller.append({"train.micro_batch_tokens": tokens})
    yield from smaller
    cheaper: list[Change] = [{"strategy.activations": choice} for choice in ("recompute", "recompute_offload")]
    yield from cheaper
    divided: list[Change] = [{"strategy": "ddp_sharded"}, {"strategy": "fsdp"}] if strategy.processes > 1 else []
    yield from divided
    for division in divided:
        yield from (division | other for other in (*smaller, *cheaper))
    for processes in (2**power for power in range(1, 11)):
        if processes > strategy.processes:
            spread = {"strategy": "fsdp", "strategy.devices": min(8, processes), "strategy.nodes": -(-processes // 8)}
            yield from (spread | other for other in ({}, *smaller, *cheaper))
            yield from (spread | cheaper[0] | other for other in smaller)
    for heads in range(made.config.model.num_heads + 1, made.config.model.hidden_size):
        yield {"model.num_heads": heads}
    if train.max_epochs:
        yield {"train.tokens": int(train.max_epochs * made.proteins.tokens)}


def changed(config: RunConfig, change: Change) -> RunConfig:
    """A config with other values of some knobs, checked when all are set."""
    sections: dict[str, Change] = {}
    for knob, value in change.items():
        section, _, name = knob.partition(".")
        sections.setdefault(section, {})[name or "name"] = value
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def describe(made: Plan, price: float | None = None) -> list[tuple[str, str]]:
    """The plan as (what, how much), `price` being that of an hour of one process's hardware."""
    config, strategy = made.config, made.config.strategy
    lines = [
        ("model", f"{config.name}: {made.parameters:,} parameters, {made.flops_per_token / 1e9:.3g} GFLOP a token"),
        ("attention", f"{made.kernel}; {made.proteins.attended:.0f} tokens attended on average"),
        (
            "strategy",
            f"{strategy.name}, {strategy.processes} x {made.hardware.name}, activations: {strategy.activations}",
        ),
        ("memory", f"{gigabytes(made.memory.total)} of {gigabytes(made.hardware.memory)} ({made.memory})"),
        (
            "communication",
            f"{gigabytes(made.received)} received by each process in a step of {config.train.step_tokens:,} tokens",
        ),
        ("data", f"{config.train.tokens:,} tokens, {made.epochs:.3g} epochs of {made.proteins.count:,} proteins"),
    ]
    if made.optimal_tokens:
        told = "{:.3g} to {:.3g} (Cheng et al. 2024; Serrano et al. 2024 disagree)".format(*made.optimal_tokens)
        lines.append(("optimal tokens", told))
    if made.speed and made.hours:
        low, high = made.hours
        gpu_hours = (low * strategy.processes, high * strategy.processes)
        lines += [
            ("speed", "{:,.0f} to {:,.0f} tokens/s".format(*made.speed)),
            ("", f"{made.utilisation.low:.0%} to {made.utilisation.high:.0%} of the peak: {made.utilisation.source}"),
            ("time", f"{low:,.3g} to {high:,.3g} hours, " + "{:,.3g} to {:,.3g} GPU-hours".format(*gpu_hours)),
        ]
        if price:
            lines.append(("cost", "{:,.0f} to {:,.0f}".format(*(price * hours for hours in gpu_hours))))
    else:
        what = made.hardware.name if config.model.num_heads else f"{config.name} on {made.hardware.name}"
        lines.append(("time", f"unknown: nobody has measured {what}"))
    return lines
