"""Checks of values, whose messages name the knob."""

from math import inf, isfinite

from proteinlm.errors import InputError


def at_least(lowest: float, knob: str, value: float) -> None:
    """Refuse a `value` below `lowest`, nan and infinity."""
    finite(knob, value)
    if value < lowest:
        raise InputError(f"{knob}={value} is less than {lowest}")


def above(lowest: float, knob: str, value: float, highest: float = inf) -> None:
    """Refuse a `value` that is not above `lowest` and at most `highest`, nan and infinity."""
    finite(knob, value)
    if not lowest < value <= highest:
        raise InputError(f"{knob}={value} is not above {lowest}" + (f" and at most {highest}" if highest < inf else ""))


def below_one(knob: str, value: float) -> None:
    """Refuse a share that is not in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"{knob}={value} is not in [0, 1)")


def finite(knob: str, value: float) -> None:
    """Refuse nan and infinity."""
    if not isfinite(value):
        raise InputError(f"{knob}={value} is not a finite number")


def plain_name(knob: str, value: str) -> None:
    """Refuse a `value` that is no plain name of a directory."""
    if not value or value.startswith(".") or "/" in value:
        raise InputError(f"{knob}={value!r} is not a plain directory name")


def one_of(knob: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is none of the `choices`."""
    if value not in choices:
        raise InputError(f"{knob}={value} is not one of {', '.join(choices)}")
