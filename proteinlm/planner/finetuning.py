"""Memory of a fine-tuning: the planner's estimate for the backbone plus the task head.

Weights, gradients and optimiser are exact but for the head; activations are the planner's for the blocks, and for contacts
the maps of the longest protein. Imports no torch.

T tokens of a micro-batch, L residues of the longest protein, H hidden size.
"""

from collections.abc import Iterator
from dataclasses import replace

from proteinlm.config import (
    CustomTaskConfig,
    FinetuneConfig,
    ForeignConfig,
    LoraConfig,
    MaskedLanguageModelConfig,
    ModelConfig,
    RunConfig,
    SecondaryStructureConfig,
    TrainConfig,
)
from proteinlm.planner import fit
from proteinlm.planner.fit import RECOMPUTE, Change
from proteinlm.planner.hardware import Hardware
from proteinlm.planner.memory import FP32, Memory, computes_in_bf16, head_activation_bytes, parameters_per_process
from proteinlm.planner.memory import memory as memory_of_pretraining
from proteinlm.planner.plan import kernel

PAIRS = 4
"""Numbers kept for each pair of residues of a map: logits, their mean with the transposed, distances and targets. What a
pair head builds besides is made in pieces."""


def check(config: FinetuneConfig, shape: ModelConfig, longest: int, hardware: Hardware) -> Memory:
    """The memory of the fullest process, or `InputError` with the smallest change that would fit; ``force=true`` passes.

    `longest` is the number of residues of the longest protein to learn from.
    """
    if isinstance(shape, ForeignConfig):  # its positions may be unbounded: then it has no table of them
        shape = replace(shape, max_positions=min(shape.max_positions, 2176))

    def problem(tried: FinetuneConfig) -> str | None:
        found = _problem(tried, shape, longest, hardware)
        return found and f"{tried.task.label}: {found}"

    fit.require(config, _changes(config, longest), problem)
    return memory(config, shape, longest, hardware)


def memory(config: FinetuneConfig, shape: ModelConfig, longest: int, hardware: Hardware) -> Memory:
    """The memory of the process that needs the most."""
    as_pretraining = _pretraining(config, shape)
    whole = memory_of_pretraining(as_pretraining, hardware)
    strategy = config.strategy
    backbone = sum(
        count for name, count in parameters_per_process(shape, strategy).items() if not name.startswith("head.")
    )
    hidden, tokens = shape.hidden_size, config.task.micro_batch_tokens
    head = _head(config, hidden)
    trained = head + _trained(config, shape, backbone)
    divided = strategy.processes if strategy.name == "ddp_sharded" else 1
    saved = tokens * head_activation_bytes(shape, computes_in_bf16(as_pretraining, hardware))
    activations = whole.activations - saved  # of a head that is not there
    if config.task.freeze == "backbone":
        activations = 2.0 * FP32 * hidden * tokens  # nothing is kept for a backward pass that does not come
    activations += 2 * FP32 * hidden * tokens  # the head's, on every token
    if config.task.name == "contact":
        activations += PAIRS * FP32 * max(longest, 1) * tokens  # as many maps as fit into a micro-batch: L^2 T / L
    return replace(
        whole,
        weights=FP32 * (backbone + head + (_factors(config, shape))),
        gradients=FP32 * trained,
        optimiser=2 * FP32 * trained / divided,
        activations=activations,
    )


def _trained(config: FinetuneConfig, shape: ModelConfig, backbone: int) -> int:
    """The number of trained parameters in the backbone or its adapters."""
    if isinstance(config.adapter, LoraConfig):
        return _factors(config, shape)
    return 0 if config.task.freeze == "backbone" else backbone


def _head(config: FinetuneConfig, hidden: int) -> int:
    """The number of parameters in the paper's head: one hidden layer, over two hidden states for pairs."""
    task = config.task
    outputs = {"remote_homology": 1195}.get(task.name) or 1
    if isinstance(task, SecondaryStructureConfig | CustomTaskConfig):
        outputs = task.classes if isinstance(task, SecondaryStructureConfig) else max(1, len(task.classes))
    return (1 + (task.name == "contact")) * hidden**2 + hidden + outputs * (hidden + 1)


def _factors(config: FinetuneConfig, shape: ModelConfig) -> int:
    """The number of parameters in all adapters: ``rank * (inputs + outputs)`` for each matrix."""
    if not isinstance(config.adapter, LoraConfig):
        return 0
    hidden, inner = shape.hidden_size, shape.intermediate_size
    sides = {"query_key_value": 4 * hidden, "output": 2 * hidden, "up": hidden + inner, "down": hidden + inner}
    return shape.num_layers * config.adapter.rank * sum(sides.get(name, 0) for name in config.adapter.matrices)


def _pretraining(config: FinetuneConfig, shape: ModelConfig) -> RunConfig:
    """The config of a pretraining of the same shape in the same micro-batches."""
    task, machine = config.task, config.train
    train = TrainConfig(
        precision=machine.precision,
        tokens=task.tokens,
        step_tokens=task.step_tokens,
        micro_batch_tokens=task.micro_batch_tokens,
    )
    return RunConfig(
        name=config.name,
        data=config.data,
        strategy=config.strategy,
        model=shape,
        task=MaskedLanguageModelConfig(),
        train=train,
    )


def _problem(config: FinetuneConfig, shape: ModelConfig, longest: int, hardware: Hardware) -> str | None:
    """Why the fine-tuning cannot start, or None."""
    fused = hardware.cuda and computes_in_bf16(_pretraining(config, shape), hardware)
    if kernel(shape, fused).startswith("none"):
        return f"the model's {shape.num_heads} heads have no attention kernel, head dimension {shape.head_dim} is above 256"
    return memory(config, shape, longest, hardware).shortage(hardware)


def _changes(config: FinetuneConfig, longest: int) -> Iterator[Change]:
    """What to try, from the smallest change to the largest: only ``adapter`` and ``task.freeze`` change what is learnt."""
    smaller = list(fit.smaller_micro_batches("task.micro_batch_tokens", config.task.micro_batch_tokens, longest + 1))
    spread: list[Change] = []
    if config.strategy.processes > 1 and config.adapter.name == "none":
        spread = [{"strategy": "ddp_sharded"}, {"strategy": "fsdp"}]
    everything_is_trained = config.adapter.name == "none" and config.task.freeze == "none"
    lighter: list[Change] = [{"adapter": "lora"}] if everything_is_trained else []
    yield from (*smaller, *RECOMPUTE, *spread, *lighter)
    for one in (*RECOMPUTE, *spread, *lighter):
        yield from (one | two for two in (*smaller, *RECOMPUTE) if one.keys() != two.keys())
    if everything_is_trained:
        yield from ({"task.freeze": "backbone"} | other for other in ({}, *smaller))
