"""Whether a planned run fits, and the smallest change that would make it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proteinlm.config import RunConfig
from proteinlm.errors import InputError
from proteinlm.planner.hardware import Hardware
from proteinlm.planner.memory import gigabytes
from proteinlm.planner.plan import Plan, Proteins, plan


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
