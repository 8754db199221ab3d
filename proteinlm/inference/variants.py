"""Reads variants of a protein from a table, as spreadsheets and ProteinGym write it: ``A24G:K30R`` in one column.

L residues of the wild type.
"""

import re
from typing import NamedTuple

import numpy as np

from proteinlm import vocabulary
from proteinlm.errors import InputError

SEQUENCE = "mutated_sequence"
"""The column that ProteinGym's tables have beside the mutations."""
WILDTYPE = ("", "WT", "wt", "_wt")
"""The names of the variant without mutations."""
_MUTATION = re.compile(r"([A-Za-z])(-?\d+)([A-Za-z])")


class Mutation(NamedTuple):
    """A residue that replaces another."""

    position: int
    """The place in the wild type, from 0."""
    before: int
    """The token of the wild type."""
    after: int
    """The token of the variant."""


class UnknownVariant(InputError):
    """A variant that is no list of substitutions, such as ``K2*`` or ``p.Lys2Ala``."""


def mutations(variant: str, letters: np.ndarray, first: int) -> list[Mutation]:
    """The mutations that `variant` names, of the wild type `letters` (L,) uint8, whose first residue is `first`.

    Raises `UnknownVariant` for what is no substitution by a letter of the vocabulary, and `InputError` for a position
    outside the wild type, another residue there than it has, and two mutations of one position.
    """
    by_position: dict[int, tuple[str, Mutation]] = {}
    for name in [] if variant.strip() in WILDTYPE else re.split(r"[:;,\s]+", variant.strip()):
        match = _MUTATION.fullmatch(name)
        if match is None:
            raise UnknownVariant(f"{name!r} is no mutation such as A24G")
        before, position, after = match[1].upper(), int(match[2]) - first, match[3].upper()
        if after not in vocabulary.RESIDUES:
            raise UnknownVariant(f"{name}: letter {after!r} is not one of {vocabulary.RESIDUES}")
        if not 0 <= position < len(letters):
            raise InputError(f"{name} is outside residues {first} to {first + len(letters) - 1} of the wild type")
        if chr(letters[position]) != before:
            raise InputError(f"{name}, but the wild type has {chr(letters[position])} there")
        if position in by_position:
            raise InputError(f"{by_position[position][0]} and {name} are two mutations of one position")
        by_position[position] = name, Mutation(position, vocabulary.IDS[before], vocabulary.IDS[after])
    return [mutation for _, mutation in by_position.values()]


def check_sequence(sequence: str, letters: np.ndarray, changes: list[Mutation], first: int) -> None:
    """Raise `InputError` if `sequence` is not the wild type `letters` (L,) uint8 with the mutations `changes`."""
    expected = letters.copy()
    for mutation in changes:
        expected[mutation.position] = ord(vocabulary.TOKENS[mutation.after])
    found = np.frombuffer(sequence.strip().upper().encode(), np.uint8)
    if len(found) != len(expected):
        raise InputError(f"{SEQUENCE} has {len(found)} residues, the wild type {len(expected)}")
    if len(different := np.flatnonzero(found != expected)):
        place = int(different[0])
        raise InputError(
            f"{SEQUENCE} has {chr(found[place])} as residue {place + first}, "
            f"the wild type with these mutations {chr(expected[place])}"
        )
