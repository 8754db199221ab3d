"""The plan of one run: memory, attention kernel, communication, work, speed and time.

Time rests on what others have measured (`UTILISATION`) and is a band.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proteinlm.config import LanguageModelConfig, ModelConfig, RunConfig
from proteinlm.planner import fit
from proteinlm.planner.fit import RECOMPUTE, Change
from proteinlm.planner.hardware import Hardware, Utilisation, utilisation_at
from proteinlm.planner.memory import BF16, FP32, Memory, computes_in_bf16, gigabytes, memory, parameters_per_process


@dataclass(frozen=True)
class Proteins:
    """The sizes of a corpus that a plan depends on."""

    count: int
    tokens: int
    """Residues and one [CLS] each, after cropping."""
    squares: int
    """Sum over the proteins of their squared lengths in tokens."""
    longest: int
    """Tokens of the longest."""

    @classmethod
    def of(cls, lengths: np.ndarray, positions: int) -> "Proteins":
        """Count proteins with `lengths` (N,) residues, cropped to `positions` tokens."""
        tokens = np.minimum(lengths.astype(np.int64) + 1, positions)
        return cls(len(tokens), int(tokens.sum()), int((tokens**2).sum()), int(tokens.max()))

    @property
    def attended_tokens(self) -> float:
        """Tokens that a token attends to, on average: packing attends within proteins alone."""
        return self.squares / self.tokens


PFAM = Proteins(32_593_668, 5_592_000_000, 1_400_000_000_000, 2_176)
"""TAPE's Pfam, its lengths taken as log-normal with median 141 and 0.62 in the logarithm."""


@dataclass(frozen=True)
class Plan:
    """Memory, work, communication and time of one run."""

    config: RunConfig
    hardware: Hardware
    proteins: Proteins
    parameters: int
    flops_per_token: float
    kernel: str
    memory: Memory
    received_bytes: float
    """Bytes that one process receives in an optimiser step."""
    utilisation: Utilisation
    speed: tuple[float, float] | None
    """Tokens per second of all processes together, at least and at most."""
    epochs: float
    optimal_tokens: tuple[float, float] | None
    """None outside the range of the fits, and without attention: they are to Transformers."""

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
    utilisation = utilisation_at(model.hidden_size)
    received = communication(config, computes_in_bf16(config, hardware))
    fp8 = config.train.fp8  # of which there are neither speeds nor bytes to count with: memory is that of bf16
    return Plan(
        config=config,
        hardware=hardware,
        proteins=proteins,
        parameters=model.parameters,
        flops_per_token=per_token,
        kernel=kernel(model, hardware.cuda and computes_in_bf16(config, hardware)),
        memory=memory(config, hardware),
        received_bytes=received,
        utilisation=utilisation,
        speed=_speed(config, hardware, per_token, utilisation, received) if model.num_heads and not fp8 else None,
        epochs=config.train.tokens / proteins.tokens,
        optimal_tokens=optimal_tokens(model),
    )


def check(config: RunConfig, proteins: Proteins, hardware: Hardware) -> Plan:
    """The plan, or `InputError` with the smallest change that would fit; ``force=true`` lets everything pass."""
    fit.require(config, _changes(config, proteins), lambda tried: _problem(plan(tried, proteins, hardware)))
    return plan(config, proteins, hardware)


def _problem(plan: Plan) -> str | None:
    """Why the run cannot start, or None."""
    config, model = plan.config, plan.config.backbone
    if plan.kernel.startswith("none"):
        return (
            f"model.num_heads={model.num_heads} gives no attention kernel, head dimension {model.head_dim} is above 256"
        )
    if shortage := plan.memory.shortage(plan.hardware):
        return shortage
    if config.train.max_epochs and plan.epochs > config.train.max_epochs:
        most = f"train.max_epochs={config.train.max_epochs:g}"
        return f"train.tokens={config.train.tokens} are {plan.epochs:.1f} epochs, more than {most}"
    return None


def _changes(config: RunConfig, proteins: Proteins) -> Iterator[Change]:
    """Less at once, more computation, other divisions, more processes; only then another model or budget."""
    strategy, train = config.strategy, config.train
    smaller = list(fit.smaller_micro_batches("train.micro_batch_tokens", train.micro_batch_tokens, proteins.longest))
    yield from (*smaller, *RECOMPUTE)
    divided: list[Change] = [{"strategy": "ddp_sharded"}, {"strategy": "fsdp"}] if strategy.processes > 1 else []
    yield from divided
    for division in divided:
        yield from (division | other for other in (*smaller, *RECOMPUTE))
    for processes in (2**power for power in range(1, 11)):
        if processes > strategy.processes:
            spread = {"strategy": "fsdp", "strategy.devices": min(8, processes), "strategy.nodes": -(-processes // 8)}
            yield from (spread | other for other in ({}, *smaller, *RECOMPUTE))
            yield from (spread | RECOMPUTE[0] | other for other in smaller)
    for heads in range(config.model.num_heads + 1, config.model.hidden_size):
        yield {"model.num_heads": heads}
    if train.max_epochs:
        yield {"train.tokens": int(train.max_epochs * proteins.tokens)}


def kernel(model: ModelConfig, fused: bool) -> str:
    """The attention kernel for the head dimension of `model`; its name starts with ``none`` if there is none."""
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
    """The bytes that a process receives in an optimiser step, by ring algorithms."""
    strategy, model = config.strategy, config.backbone
    weights = FP32 * sum(parameters_per_process(model, strategy).values())
    micro = config.train.micro_batches // strategy.data_processes
    tensor, shards = strategy.tensor_size, strategy.shards
    total = 0.0
    if strategy.name in ("ddp", "ddp_sharded"):
        total += (2 if strategy.name == "ddp" else 3) * weights * _others(strategy.processes)
    if strategy.name in ("fsdp", "hsdp", "fsdp_tensor"):  # gathered twice, gradients reduced, in each micro-batch
        total += 3 * micro * weights * shards * _others(shards)
        total += 2 * weights * _others(strategy.replica_count)
    if tensor > 1:  # two sums forward and two backward in each block
        row = (BF16 if mixed else FP32) * model.hidden_size * config.train.micro_batch_tokens
        total += 2 * 4 * model.num_layers * row * micro * _others(tensor)
    return total


def _others(processes: int) -> float:
    return (processes - 1) / processes


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


FITTED_SIZES = (3.5e6, 10.7e9)
"""Parameters, without embeddings, of the smallest and the largest model that Cheng et al. trained (their abstract)."""


def optimal_tokens(model: ModelConfig) -> tuple[float, float] | None:
    """Tokens at which a model of this size is the best use of its compute, by two fits to masked language models.

    Cheng et al., "Training Compute-Optimal Protein Language Models", NeurIPS 2024: N = 6.19e-8 C^0.776 and
    D = 2.02e6 C^0.230 (figure), or 1.36e-7 C^0.760 and 6.15e5 C^0.256 (notebook), with N and C without embeddings. They
    trained 300 models of 3.5 million to 10.7 billion parameters. Returns None outside of this range, where the fits say
    nothing, and for a model without attention. Serrano et al. (arXiv 2406.07249) find the opposite exponents: a plan
    shows these numbers and refuses nothing because of them.
    """
    size = 12 * model.num_layers * model.hidden_size**2
    if not model.num_heads or not FITTED_SIZES[0] <= size <= FITTED_SIZES[1]:
        return None
    fits = ((6.19e-8, 0.776, 2.02e6, 0.230), (1.36e-7, 0.760, 6.15e5, 0.256))
    tokens = [d * ((size / n) ** (1 / a)) ** b for n, a, d, b in fits]
    return min(tokens), max(tokens)


def describe(made: Plan, price: float | None = None) -> list[tuple[str, str]]:
    """The plan as (what, how much), `price` being that of an hour of one process's hardware."""
    config, strategy = made.config, made.config.strategy
    lines = [
        ("model", f"{config.name}: {made.parameters:,} parameters, {made.flops_per_token / 1e9:.3g} GFLOP a token"),
        ("attention", f"{made.kernel}; {made.proteins.attended_tokens:.0f} tokens attended on average"),
        (
            "strategy",
            f"{strategy.name}, {strategy.processes} x {made.hardware.name}, activations: {strategy.activations}",
        ),
        ("memory", f"{gigabytes(made.memory.total)} of {gigabytes(made.hardware.memory)} ({made.memory})"),
        (
            "communication",
            f"{gigabytes(made.received_bytes)} received by each process in a step of {config.train.step_tokens:,} tokens",
        ),
        ("data", f"{config.train.tokens:,} tokens, {made.epochs:.3g} epochs of {made.proteins.count:,} proteins"),
    ]
    if made.optimal_tokens:
        band = "{:.3g} to {:.3g} (Cheng et al. 2024; Serrano et al. 2024 disagree)".format(*made.optimal_tokens)
        lines.append(("optimal tokens", band))
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
        if config.train.fp8:
            what = f"fp8 on {made.hardware.name}; memory is counted as in bf16"
        lines.append(("time", f"unknown: nobody has measured {what}"))
    return lines
