"""Whether a fine-tuning fits, before it starts: the planner's memory and kernels, with a task's head and what is trained.

Weights, gradients and optimiser are exact but for the head; activations are the planner's for the blocks, and for contacts
the maps of the longest protein. Imports no torch.

T tokens of a micro-batch, L residues of the longest protein, H hidden size.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proteinlm import planner
from proteinlm.config import (
    CustomTaskConfig,
    FinetuneConfig,
    ForeignConfig,
    LoraConfig,
    MaskedLanguageModelConfig,
    ModelConfig,
    RunConfig,
    SecondaryStructureConfig,
    StrategyConfig,
    TrainConfig,
)
from proteinlm.errors import InputError
from proteinlm.planner import FP32, Hardware, Memory, gigabytes

PAIRS = 4
"""Numbers kept for each pair of residues of a map: logits, their mean with the transposed, distances and targets. What a
pair head builds besides is made in pieces."""


def check(config: FinetuneConfig, shape: ModelConfig, longest: int, hardware: Hardware) -> Memory:
    """The memory of the fullest process, or `InputError` with the smallest change that would fit; ``force=true`` passes.

    `longest` is the number of residues of the longest protein to learn from.
    """
    if isinstance(shape, ForeignConfig):  # its positions may be unbounded: then it has no table of them
        shape = replace(shape, max_positions=min(shape.max_positions, 2176))
    if not config.force and (problem := _problem(config, shape, longest, hardware)):
        remedy = next(
            (named for named, tried in _changes(config, longest) if not _problem(tried, shape, longest, hardware)), None
        )
        hint = f"{remedy} would fit" if remedy else "no single knob would make it fit"
        raise InputError(f"{config.task.label}: {problem}: {hint} (force=true tries all the same)")
    return memory(config, shape, longest, hardware)


def memory(config: FinetuneConfig, shape: ModelConfig, longest: int, hardware: Hardware) -> Memory:
    """Bytes of the process that has the most."""
    as_pretraining = _pretraining(config, shape)
    whole = planner.memory(as_pretraining, hardware)
    strategy = config.strategy
    held = planner.held(shape, strategy)
    backbone = sum(count for name, count in held.items() if not name.startswith("head."))
    hidden, tokens = shape.hidden_size, config.task.micro_batch_tokens
    head = _head(config, hidden)
    trained = head + _trained(config, shape, backbone)
    divided = strategy.processes if strategy.name == "ddp_sharded" else 1
    saved = tokens * planner.saved_by_head(shape, planner.mixed(as_pretraining, hardware))
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
    """Parameters of the backbone, or beside it, that are trained."""
    if isinstance(config.adapter, LoraConfig):
        return _factors(config, shape)
    return 0 if config.task.freeze == "backbone" else backbone


def _head(config: FinetuneConfig, hidden: int) -> int:
    """Numbers in the paper's head: one hidden layer, of pairs over two hidden states."""
    task = config.task
    outputs = {"remote_homology": 1195}.get(task.name) or 1
    if isinstance(task, SecondaryStructureConfig | CustomTaskConfig):
        outputs = task.classes if isinstance(task, SecondaryStructureConfig) else max(1, len(task.classes))
    return (1 + (task.name == "contact")) * hidden**2 + hidden + outputs * (hidden + 1)


def _factors(config: FinetuneConfig, shape: ModelConfig) -> int:
    """Numbers in the factors of all adapters: ``rank * (inputs + outputs)`` for each matrix."""
    if not isinstance(config.adapter, LoraConfig):
        return 0
    hidden, inner = shape.hidden_size, shape.intermediate_size
    sides = {"query_key_value": 4 * hidden, "output": 2 * hidden, "up": hidden + inner, "down": hidden + inner}
    return shape.num_layers * config.adapter.rank * sum(sides.get(name, 0) for name in config.adapter.matrices)


def _pretraining(config: FinetuneConfig, shape: ModelConfig) -> RunConfig:
    """A pretraining of the same shape in the same micro-batches, which the planner knows."""
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
    kernel = planner.kernel(shape, hardware.cuda and planner.mixed(_pretraining(config, shape), hardware))
    if kernel.startswith("none"):
        return f"the model's {shape.num_heads} heads have no attention kernel, head dimension {shape.head_dim} is above 256"
    needed = memory(config, shape, longest, hardware)
    if needed.total > hardware.memory:
        there = gigabytes(hardware.memory)
        return f"{gigabytes(needed.total)} are needed in each process and {hardware.name} has {there} ({needed})"
    return None


def _changes(config: FinetuneConfig, longest: int) -> Iterator[tuple[str, FinetuneConfig]]:
    """What to try, from the smallest change to the largest: only the last two change what is learnt."""
    smaller: list[dict[str, Any]] = []
    tokens = config.task.micro_batch_tokens
    while tokens % 2 == 0 and tokens // 2 > longest:
        tokens //= 2
        smaller.append({"task.micro_batch_tokens": tokens})
    cheaper = [{"strategy.activations": choice} for choice in ("recompute", "recompute_offload")]
    spread = []
    if config.strategy.processes > 1 and config.adapter.name == "none":
        spread = [{"strategy": "ddp_sharded"}, {"strategy": "fsdp"}]
    lighter = [{"adapter": "lora"}] if config.adapter.name == "none" and config.task.freeze == "none" else []
    probe = [{"task.freeze": "backbone"}] if config.adapter.name == "none" and config.task.freeze == "none" else []
    single: list[dict[str, Any]] = [*smaller, *cheaper, *spread, *lighter]
    pairs = [
        one | two for one in (*cheaper, *spread, *lighter) for two in (*smaller, *cheaper) if one.keys() != two.keys()
    ]
    for change in (*single, *pairs, *probe, *({**probe[0], **two} for two in (smaller if probe else []))):
        try:
            yield " ".join(f"{knob}={value}" for knob, value in change.items()), _changed(config, change)
        except InputError:
            continue


def _changed(config: FinetuneConfig, change: dict[str, Any]) -> FinetuneConfig:
    sections: dict[str, Any] = {}
    strategy: StrategyConfig = config.strategy
    for knob, value in change.items():
        section, _, name = knob.partition(".")
        if section == "strategy":
            strategy = replace(strategy, **{name or "name": value})
            sections["strategy"] = strategy
        elif section == "adapter":
            sections["adapter"] = LoraConfig()
        else:
            sections[section] = replace(getattr(config, section), **{name: value})
    return replace(config, **sections)
