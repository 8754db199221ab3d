"""Whether a stage fits, and the smallest change of its config that would make it. Each stage brings its own problem and
the changes to try.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from proteinlm.config import LoraConfig, StageConfig
from proteinlm.errors import InputError

Config = TypeVar("Config", bound=StageConfig)
Change = dict[str, Any]
"""New values of some knobs, as on the command line: ``{"strategy": "fsdp", "strategy.devices": 8}``."""


def require(config: Config, candidates: Iterable[Change], problem: Callable[[Config], str | None]) -> None:
    """Raise `InputError` with the problem of `config` and the smallest change that would solve it; ``force=true`` passes.

    `problem` says why a config cannot run, or None; `candidates` come from the smallest change to the largest.
    """
    if config.force or not (found := problem(config)):
        return
    change = smallest_change(config, candidates, problem)
    hint = f"{' '.join(f'{knob}={value}' for knob, value in change.items())} would fit" if change else None
    raise InputError(f"{found}: {hint or 'no single knob would make it fit'} (force=true tries all the same)")


def smallest_change(
    config: Config, candidates: Iterable[Change], problem: Callable[[Config], str | None]
) -> Change | None:
    """The first of the `candidates` that gives a valid config without a problem."""
    for change in candidates:
        try:
            tried = changed(config, change)
        except InputError:
            continue
        if not problem(tried):
            return change
    return None


def changed(config: Config, change: Change) -> Config:
    """The config with other values of some knobs, checked when all are set."""
    sections: dict[str, Any] = {}
    for knob, value in change.items():
        section, _, name = knob.partition(".")
        if (section, name, value) == ("adapter", "", "lora"):
            sections[section] = LoraConfig()  # another class; other choices are names of the same one
        else:
            sections.setdefault(section, {})[name or "name"] = value
    return replace(
        config,
        **{
            name: replace(getattr(config, name), **values) if isinstance(values, dict) else values
            for name, values in sections.items()
        },
    )


def smaller_micro_batches(knob: str, tokens: int, longest: int) -> Iterator[Change]:
    """Micro-batches of `tokens` halved again and again, as long as they hold the `longest` protein (in tokens)."""
    while tokens % 2 == 0 and tokens // 2 >= longest:
        tokens //= 2
        yield {knob: tokens}


RECOMPUTE: list[Change] = [{"strategy.activations": choice} for choice in ("recompute", "recompute_offload")]
"""Less memory for more computation."""
