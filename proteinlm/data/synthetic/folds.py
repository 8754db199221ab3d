"""The folds of the synthetic universe: which residues are near each other, and where they lie.

A protein is a chain of strands (5 residues) and helices (13), joined by loops (3). Its strands lie two by two in ladders,
4.8 Å apart, parallel or antiparallel. Any two strands of the chain may share a ladder; which do is what tells folds apart.
Ladders and helices stand upright in a ring. Contacts are read off the C-alpha coordinates.

L residues.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from proteinlm.vocabulary import SS8

STRAND, HELIX, LOOP, HEAD, TAIL = (
    5,
    13,
    3,
    2,
    8,
)  # residues; TAIL at most. A helix and a loop take the place of two strands
REACH = {"G": 3, "H": 4, "I": 5}  # from a residue to its partner, by the kind of helix: 3-10, alpha, pi
HELIX_SHAPE = {
    "G": (1.9, 2.0, 120.0),
    "H": (2.3, 1.5, 100.0),
    "I": (2.65, 1.15, 87.0),
}  # radius Å, rise Å, turn in degrees
BOND, RISE, LADDER, PLEAT = 3.8, 3.3, 4.8, 0.9  # Å: between neighbours, along a strand, across a ladder, in and out
RING = {3: 7.2, 4: 9.0}  # radius in Å by places: keeps strands of different ladders just out of contact
IN_STRAND, OUT_STRAND, IN_HELIX, OUT_HELIX, TURN, COIL, BEFORE_HELIX, AFTER_HELIX = range(8)  # surroundings
FREE, COMPLEMENTARY, ALIKE = range(3)  # how a residue depends on an earlier one


class Fold(NamedTuple):
    """The longest protein of a fold; families lack some of its last residues."""

    elements: str  # a letter of SS8 for each
    surroundings: np.ndarray  # (L,)
    dependence: np.ndarray  # (L,): FREE, COMPLEMENTARY or ALIKE
    parent: np.ndarray  # (L,): the earlier residue it depends on; itself if FREE
    secondary: np.ndarray  # (L,): index into SS8
    coordinates: np.ndarray  # (L, 3): C-alpha, Å


def contacts(coordinates: np.ndarray) -> np.ndarray:
    """Which pairs (L, L) are closer than 8 Å."""
    return np.linalg.norm(coordinates[:, None] - coordinates, axis=-1) < 8.0


def architecture(generator: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """Elements of a chain, and the ladder of each strand: six strands and up to one helix, or four and one or two."""
    strands = 4 if generator.random() < 0.25 else 6
    helices = int(generator.integers(0, 2)) + (strands == 4)
    elements = np.array(["E"] * (strands + helices))
    places = generator.permutation(strands + helices)[:helices]
    elements[places] = np.array(list("GHHHHHHHII"))[generator.integers(0, 10, helices)]
    order = generator.permutation(np.repeat(np.arange(strands // 2), 2))
    _, first, ladder = np.unique(order, return_index=True, return_inverse=True)
    return "".join(elements), tuple(first.argsort().argsort()[ladder].tolist())


def build_fold(elements: str, ladders: tuple[int, ...]) -> Fold:
    """Build a chain in space; ``ladders[s]`` is the place in the ring of strand s."""
    length = HEAD + sum(STRAND if kind == "E" else HELIX for kind in elements) + LOOP * (len(elements) - 1) + TAIL
    fold = Fold(
        elements,
        np.full(length, COIL),
        np.full(length, FREE),
        np.arange(length),
        np.full(length, SS8.index("C"), dtype=np.int32),
        np.full((length, 3), np.nan),
    )
    places = len(set(ladders)) + len(elements) - len(ladders)
    free, strand, first_rows, at = len(set(ladders)), 0, {}, HEAD
    for number, kind in enumerate(elements):
        if number:
            _loop(fold, at, elements[number - 1], kind)
            at += LOOP
        upwards = number % 2 == 0
        if kind == "E":
            rows = _strand(fold, at, upwards, ladders[strand] / places, places, first_rows.get(ladders[strand]))
            first_rows.setdefault(ladders[strand], rows)
            strand, at = strand + 1, at + STRAND
        else:
            _helix(fold, at, upwards, free / places, places, kind)
            free, at = free + 1, at + HELIX
    _join(fold.coordinates)
    return fold


def _strand(fold: Fold, at: int, upwards: bool, turn: float, places: int, across: np.ndarray | None) -> np.ndarray:
    """Place a strand whose neighbour's residues, from the lowest up, are `across`; return its own (5,)."""
    rows = np.arange(at, at + STRAND)[:: 1 if upwards else -1]
    height = np.arange(STRAND)
    inward = height % 2 == 0
    local = np.stack(
        [
            RING[places] - PLEAT * np.where(inward, 1, -1),
            np.full(STRAND, LADDER / 2 if across is None else -LADDER / 2),
            RISE * (height - (STRAND - 1) / 2),
        ],
        axis=1,
    )
    fold.coordinates[rows] = local @ _rotation(turn)
    fold.surroundings[rows] = np.where(inward, IN_STRAND, OUT_STRAND)
    fold.secondary[rows] = SS8.index("E")
    if across is None:
        later = np.arange(at + 2, at + STRAND)
        fold.parent[later], fold.dependence[later] = later - 2, ALIKE
    else:
        fold.parent[rows], fold.dependence[rows] = across, COMPLEMENTARY
    return rows


def _helix(fold: Fold, at: int, upwards: bool, turn: float, places: int, kind: str) -> None:
    radius, rise, degrees = HELIX_SHAPE[kind]
    residue = np.arange(HELIX)
    angle = np.deg2rad(degrees) * (residue - HELIX // 2)
    height = rise * (residue - HELIX // 2) * (1 if upwards else -1)
    local = np.stack([RING[places] - radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    fold.coordinates[at : at + HELIX] = local @ _rotation(turn)
    fold.surroundings[at : at + HELIX] = np.where(np.cos(angle) > 0, IN_HELIX, OUT_HELIX)
    fold.secondary[at : at + HELIX] = SS8.index(kind)
    reach = REACH[kind]
    second = residue[(residue % (2 * reach) >= reach) & (residue >= reach)] + at
    fold.parent[second], fold.dependence[second] = second - reach, COMPLEMENTARY


def _loop(fold: Fold, at: int, before: str, after: str) -> None:
    loop = slice(at, at + LOOP)
    if before == after == "E":
        fold.surroundings[loop], fold.secondary[loop] = TURN, SS8.index("T")
        return
    if before != "E":
        fold.surroundings[at], fold.secondary[at] = AFTER_HELIX, SS8.index("S")
    if after != "E":
        fold.surroundings[at + LOOP - 1], fold.secondary[at + LOOP - 1] = BEFORE_HELIX, SS8.index("S")


def _rotation(turn: float) -> np.ndarray:
    """About the axis of the ring, for row vectors; `turn` is a share of the full circle."""
    cosine, sine = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    return np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])


def _join(coordinates: np.ndarray) -> None:
    """Fill in the residues without coordinates: loops as arcs that bulge away from the middle, ends as straight lines."""
    placed = np.flatnonzero(np.isfinite(coordinates[:, 0]))
    for first, last in pairwise(placed.tolist()):
        if last - first > 1:
            coordinates[first + 1 : last] = _arc(coordinates[first], coordinates[last], last - first)
    first, last = placed[0], placed[-1]
    for end, steps in ((first, np.arange(first, 0, -1)), (last, np.arange(1, len(coordinates) - last))):
        away = np.array([0, 0, BOND * np.sign(coordinates[end, 2])])
        coordinates[end + (steps if end == last else -steps)] = coordinates[end] + steps[:, None] * away


def _arc(start: np.ndarray, stop: np.ndarray, bonds: int) -> np.ndarray:
    """The bonds - 1 residues between two, on a circle; on a line, with longer bonds, where the gap is too wide."""
    chord = stop - start
    gap = np.linalg.norm(chord)
    if gap >= bonds * BOND:
        return start + np.arange(1, bonds)[:, None] / bonds * chord
    along = chord / gap
    outward = np.array([0, 0, np.sign(start[2] + stop[2])])
    outward = outward - (outward @ along) * along
    outward /= np.linalg.norm(outward)
    narrow, wide = 1e-6, 2 * np.pi / bonds  # of a circle seen from its middle, how much one bond takes
    angle = wide
    for _ in range(60):
        angle = (narrow + wide) / 2
        long = BOND * np.sin(bonds * angle / 2) / np.sin(angle / 2) > gap
        narrow, wide = (angle, wide) if long else (narrow, angle)
    radius, half = BOND / 2 / np.sin(angle / 2), bonds * angle / 2
    place = angle * np.arange(1, bonds) - half
    sideways, up = radius * np.sin(place), radius * (np.cos(place) - np.cos(half))
    return (start + stop) / 2 + sideways[:, None] * along + up[:, None] * outward
