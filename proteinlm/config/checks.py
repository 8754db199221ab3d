"""Checks that name the knob."""

from proteinlm.errors import InputError


def at_least(lowest: int, knob: str, value: float) -> None:
    """Refuse a `value` below `lowest`."""
    if value < lowest:
        raise InputError(f"{knob}={value} is less than {lowest}")


def one_of(knob: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is none of the `choices`."""
    if value not in choices:
        raise InputError(f"{knob}={value} is not one of {', '.join(choices)}")
