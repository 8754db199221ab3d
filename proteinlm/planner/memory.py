"""The memory of a process: weights, gradients and optimiser exactly, activations as the blocks save them.

T tokens of a micro-batch, H hidden size, L layers, W processes, P parameters.
"""

from dataclasses import dataclass
from math import ceil, prod

from proteinlm.config import BaselineConfig, ModelConfig, RunConfig, StrategyConfig, max_scored_tokens
from proteinlm.config.baselines import Named, Shape, linear, norm
from proteinlm.models import mup
from proteinlm.parallel import plan as cuts
from proteinlm.planner.hardware import Hardware

FP32, BF16 = 4, 2  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of the process that needs the most."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    """Kept for the backward pass."""
    working: float
    """Gathered weights and what the backward pass makes and drops."""
    reserve: float
    """For the runtime, and for what allocation leaves unused."""

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimiser

    @property
    def total(self) -> float:
        return self.states + self.activations + self.working + self.reserve

    def shortage(self, hardware: Hardware) -> str | None:
        """What is needed and what there is, or None if it fits."""
        if self.total <= hardware.memory:
            return None
        there = gigabytes(hardware.memory)
        return f"{gigabytes(self.total)} are needed in each process and {hardware.name} has {there} ({self})"

    def __str__(self) -> str:
        names = ("weights", "gradients", "optimiser", "activations", "working", "reserve")
        return ", ".join(f"{name} {gigabytes(getattr(self, name))}" for name in names)


def memory(config: RunConfig, hardware: Hardware) -> Memory:
    """Bytes of the process that has the most."""
    model, strategy = config.backbone, config.strategy
    mine = parameters_per_process(model, strategy)
    parameters = sum(mine.values())
    remembered = {name: count * _moments(config, name) for name, count in mine.items()}
    optimiser = _fullest(config) if strategy.name == "ddp_sharded" else sum(remembered.values())
    in_bf16 = computes_in_bf16(config, hardware)
    activations, working = activation_bytes(config, in_bf16, 0 if hardware.cuda else max_scored_tokens(in_bf16))
    return Memory(
        weights=FP32 * parameters,
        gradients=FP32 * parameters,
        optimiser=FP32 * optimiser,
        activations=activations,
        working=working,
        reserve=1.5e9 + 0.05 * (activations + working) if hardware.cuda else 0.4e9,
    )


def computes_in_bf16(config: RunConfig, hardware: Hardware) -> bool:
    """Whether products are computed in bf16."""
    return config.train.precision == "bf16-mixed" or (config.train.precision == "auto" and hardware.cuda)


def parameter_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Shapes of all parameters by name, in the order of the model, with its language-model head."""
    if isinstance(model, BaselineConfig):
        return model.tensors()
    hidden, inner = model.hidden_size, model.intermediate_size

    def everything() -> Named:
        yield "backbone.token_embedding.weight", (model.vocab_size, hidden)
        if model.position_rows:
            yield "backbone.position_embedding.weight", (model.position_rows, hidden)
        for block in (f"backbone.blocks.{index}" for index in range(model.num_layers)):
            yield from norm(f"{block}.attention_norm", hidden)
            yield from linear(f"{block}.attention.query_key_value", hidden, 3 * hidden)
            yield from linear(f"{block}.attention.output", hidden, hidden)
            yield from norm(f"{block}.feed_forward_norm", hidden)
            yield from linear(f"{block}.feed_forward.up", hidden, inner)
            yield from linear(f"{block}.feed_forward.down", inner, hidden)
            if model.feed_forward == "gated":
                yield from linear(f"{block}.feed_forward.gate", hidden, inner)
        for name in model.outer_norms:
            yield from norm(f"backbone.{name}", hidden)
        yield "head.bias", (model.vocab_size,)
        yield from linear("head.dense", hidden, hidden)
        yield from norm("head.norm", hidden)

    return dict(everything())


def parameters_per_process(model: ModelConfig, strategy: StrategyConfig) -> dict[str, int]:
    """Numbers of each parameter that a process holds, at most."""
    return {
        n: _rows(_cut(n, shape, strategy.tensor_size), strategy.shards) for n, shape in parameter_shapes(model).items()
    }


def _cut(name: str, shape: tuple[int, ...], processes: int) -> tuple[int, ...]:
    """The shape of a process's part of a parameter under tensor parallelism."""
    side = next((side for layer, side in cuts.BLOCK.items() if f".{layer}." in name), None)
    if side is None or (side == "row" and len(shape) == 1):
        return shape
    return (shape[0] // processes, *shape[1:]) if side == "column" else (shape[0], shape[1] // processes)


def _fullest(config: RunConfig) -> int:
    """Numbers that the fullest process remembers under ``ddp_sharded``: fairscale gives each parameter to the process with
    the fewest numbers, group after group of `optim.build`.
    """
    groups: dict[tuple[bool, int, float], list[str]] = {}
    shapes = parameter_shapes(config.backbone)
    for matrices in (True, False):
        for name in (name for name, shape in shapes.items() if (len(shape) >= 2) is matrices):
            moments = _moments(config, name)
            factor = mup.rate(name, config.backbone, muon=moments == 1)
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


def _moments(config: RunConfig, name: str) -> int:
    """Numbers that the optimiser remembers of each number of a parameter: Muon has one moment, AdamW two."""
    matrix = ".blocks." in name and len(parameter_shapes(config.backbone)[name]) == 2
    return 1 if matrix and config.optim.matrices == "muon" else 2


def activation_bytes(config: RunConfig, mixed: bool, longest_scored: float = 0) -> tuple[float, float]:
    """Bytes kept for the backward pass of a micro-batch, and bytes made and dropped on the way;
    `longest_scored` as in `block_activation_bytes`.
    """
    model, strategy, tokens = config.backbone, config.strategy, config.train.micro_batch_tokens
    hidden, layers = model.hidden_size, model.num_layers
    block = tokens * block_activation_bytes(model, strategy.tensor_size, mixed, longest_scored)
    stream = FP32 * hidden * tokens  # the residual stream is never bf16
    narrow = BF16 if mixed else FP32
    ends = 2 * stream + tokens * hidden * (model.dropout > 0) + tokens * head_activation_bytes(model, mixed)
    blocks = {
        "keep": layers * block,
        "recompute": layers * stream + block,
        "recompute_offload": 2 * stream + block,
    }[strategy.activations]
    weights = parameters_per_process(model, strategy)
    matrices = sum(count for name, count in weights.items() if ".blocks." in name) / layers
    gathering = strategy.name in ("fsdp", "hsdp", "fsdp_tensor")
    whole = sum(prod(shape) for name, shape in parameter_shapes(model).items() if ".blocks." in name) / layers
    whole /= strategy.tensor_size
    if mixed:
        # autocast keeps a bf16 copy of each matrix until the backward pass, of a gathered one even when that is freed
        each = BF16 * (whole if gathering else matrices)
        blocks += each * (layers if strategy.activations == "keep" else 1)
    working = 16 * narrow * hidden * tokens / strategy.tensor_size + 2 * stream
    if gathering:
        rest = sum(prod(shape) for name, shape in parameter_shapes(model).items() if ".blocks." not in name)
        working += FP32 * (3 * whole + 2 * rest)  # this block, the next, and gradients; the tables stay gathered
    return blocks + ends, working


def head_activation_bytes(model: ModelConfig, mixed: bool) -> float:
    """Bytes per token that the language-model head saves, at 15 masked tokens in a hundred."""
    narrow = BF16 if mixed else FP32
    return 0.15 * (FP32 * 3 * model.hidden_size + narrow * 2 * model.hidden_size + 3 * FP32 * model.vocab_size)


def block_activation_bytes(model: ModelConfig, tensor_size: int, mixed: bool, longest_scored: float = 0) -> float:
    """Bytes per token that a block saves for its backward pass, with the attention weights of proteins of
    `longest_scored` tokens.

    Both LayerNorms and dropouts work on the fp32 residual stream, and save their inputs and masks; the products' inputs,
    the query, key and value, the attention's output and both sides of the GELU are in the precision of the products.
    """
    if isinstance(model, BaselineConfig):
        return model.activations_per_token * (BF16 if mixed else FP32)
    hidden, dropout = model.hidden_size, model.dropout > 0
    inner = model.intermediate_size / hidden
    narrow = BF16 if mixed else FP32
    whole = 2 * FP32 + 2 * narrow + 2 * dropout  # LayerNorm inputs and outputs, masks
    # query, key and value; attention's output; GELU's input and output, and where it gates, the other factor and the product
    divided = (3 + 1 + (2 if model.feed_forward == "gelu" else 4) * inner) * narrow
    if model.positions == "rotary":
        divided += 2 * narrow + (0 if narrow == FP32 else 2 * FP32)  # turned queries and keys
    return hidden * (whole + divided / tensor_size) + narrow * model.num_heads / tensor_size * longest_scored


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
