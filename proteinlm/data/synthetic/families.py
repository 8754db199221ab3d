"""The families of the synthetic universe: how they descend, and how a residue depends on its surroundings.

**Sequence.** A residue depends on its surroundings (`_preferences`) and on at most one residue before it: on its partner
across the ladder, or 3, 4 or 5 residues back in a helix, which it complements (`COMPLEMENTS`); or, in the first strand of a
ladder, on the residue two before it, which it resembles. The rules are the same in all families, so what is learnt from
some holds for all. No profile of a family says who its partners are: that takes a comparison of distant residues.

**Descent.** Fold, superfamily, family, member: members descend from the ancestor of their family, and that from the ancestor
of its superfamily. Substitutions are compensated: a residue is drawn anew where the one it depends on has changed.

Lengths are constant because learned positions then find partners within minutes; tails make up for it a little.

F folds, M families, N proteins, L residues, W residues of the longest protein. Residues are indices of the 20 amino acids.
"""

import zlib
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from proteinlm.config import SyntheticDataConfig
from proteinlm.data.synthetic.folds import (
    AFTER_HELIX,
    ALIKE,
    BEFORE_HELIX,
    COIL,
    COMPLEMENTARY,
    FREE,
    IN_HELIX,
    IN_STRAND,
    OUT_HELIX,
    OUT_STRAND,
    TAIL,
    TURN,
    Fold,
    architecture,
    build_fold,
)
from proteinlm.vocabulary import AMINO_ACIDS

KEEP = 0.3  # of the ancestor's residues, at each step of descent

COMPLEMENTS = (("LF", "VI"), ("WM", "AC"), ("DE", "KR"), ("QT", "HY"))  # classes; the first two are hydrophobic
FLEXIBLE = "GPNS"  # the letters of loops
CHANCES = 4096  # probabilities are whole multiples of 1 / CHANCES: the same on any machine


class Role(IntEnum):
    """What a family is for. The corpus takes train and valid from TRAIN, holdout from SUPERFAMILY and FOLD."""

    TRAIN = 0
    FAMILY = 1
    """A new family of a superfamily in TRAIN."""
    SUPERFAMILY = 2
    """Of a new superfamily of a fold in TRAIN."""
    FOLD = 3
    """Of a new fold."""


HELD_OUT = Role.SUPERFAMILY, Role.FOLD
"""Families that the corpus has in its holdout only."""


class Universe(NamedTuple):
    folds: list[Fold]
    fold: np.ndarray  # (M,)
    superfamily: np.ndarray  # (M,): numbered over all folds
    role: np.ndarray  # (M,)
    length: np.ndarray  # (M,)
    ancestor: np.ndarray  # (M, W)

    def of(self, *roles: Role) -> np.ndarray:
        """The families of these roles."""
        return np.flatnonzero(np.isin(self.role, roles))


def universe_of(config: SyntheticDataConfig) -> Universe:
    return _built(config.seed, config.folds, config.superfamilies, config.families)


def generator_of(config: SyntheticDataConfig, *names: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([config.seed, *(zlib.crc32(name.encode()) for name in names)]))


def energy(fold: Fold, residues: np.ndarray) -> np.ndarray:
    """Minus the log-probability (N,) of proteins (N, L) in a fold: the fitness behind fluorescence and stability."""
    here = slice(residues.shape[1])
    parents = residues[:, fold.parent[here]]
    return -log_probability()[fold.surroundings[here], fold.dependence[here], parents, residues].sum(axis=1)


@lru_cache(maxsize=1)
def log_probability() -> np.ndarray:
    """The universal rules: log-probability (surroundings, dependence, earlier residue, residue)."""
    preference = _preferences()
    kind = np.full(len(AMINO_ACIDS), -1)
    partner = np.full(len(AMINO_ACIDS), -1)
    for number, classes in enumerate(COMPLEMENTS):
        for side, letters in enumerate(classes):
            kind[_indices(letters)] = 2 * number + side
            partner[_indices(letters)] = _indices(classes[1 - side])
    bonds = np.zeros((3, len(AMINO_ACIDS), len(AMINO_ACIDS)))
    bonds[COMPLEMENTARY] += 4.0 * ((kind[:, None] ^ 1) == kind)
    bonds[COMPLEMENTARY] += 1.2 * (partner[:, None] == np.arange(len(AMINO_ACIDS)))
    bonds[ALIKE] += 2.5 * ((kind[:, None] == kind) & (kind >= 0))
    weights = preference[:, None, None, :] + bonds  # (8, 3, 20, 20)
    return weights - np.log(np.exp(weights).sum(axis=-1, keepdims=True))


def _preferences() -> np.ndarray:
    """Log-preferences (8, 20) of surroundings: inside hydrophobic, outside polar, loops flexible."""
    preference = np.zeros((8, len(AMINO_ACIDS)))
    hydrophobic = _indices("".join(map("".join, COMPLEMENTS[:2])))
    polar = _indices("".join(map("".join, COMPLEMENTS[2:])))
    flexible = _indices(FLEXIBLE)
    for inner, outer, favoured in ((IN_STRAND, OUT_STRAND, "VIFWTYRDH"), (IN_HELIX, OUT_HELIX, "ALMCEQKDR")):
        for surroundings, sign in ((inner, 1), (outer, -1)):
            preference[surroundings, hydrophobic] = 0.75 * sign
            preference[surroundings, polar] = -0.75 * sign
            preference[surroundings, _indices(favoured)] += 0.5
            preference[surroundings, flexible] = -3.5
    for surroundings, favourite in ((TURN, "G"), (COIL, "P"), (BEFORE_HELIX, "S"), (AFTER_HELIX, "N")):
        preference[surroundings, flexible] = 2.5
        preference[surroundings, _indices(favourite)] = 4.0
    return preference


@lru_cache(maxsize=1)
def lots_of_residues() -> np.ndarray:
    """`log_probability` as lots to draw: (surroundings, dependence, earlier residue, CHANCES) residues."""
    bounds = np.rint(np.cumsum(np.exp(log_probability()), axis=-1) * CHANCES).astype(np.int64)
    counts = np.diff(bounds, axis=-1, prepend=0)
    residues = np.broadcast_to(np.arange(len(AMINO_ACIDS), dtype=np.uint8), counts.shape)
    return np.repeat(residues.ravel(), counts.ravel()).reshape(*counts.shape[:-1], CHANCES)


def members(universe: Universe, families: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One new member (N, W) of each of the families (N,); past a family's length the residues mean nothing."""
    return _drawn(universe, universe.fold[families], generator, universe.ancestor[families])


def _drawn(
    universe: Universe, fold: np.ndarray, generator: np.random.Generator, ancestors: np.ndarray | None = None
) -> np.ndarray:
    """Proteins (N, W) of the folds (N,), from scratch or by descent from `ancestors` (N, W)."""
    surroundings, dependence, parent = _stacked(universe.folds)
    rows, width = np.arange(len(fold)), surroundings.shape[1]
    lots = generator.integers(0, CHANCES, (width, len(fold)), dtype=np.uint16)
    kept = generator.integers(0, 100, (width, len(fold)), dtype=np.uint8) < 100 * KEEP
    residues = np.zeros((len(fold), width), dtype=np.uint8)
    for site in range(width):
        above = parent[fold, site]
        earlier = residues[rows, above]
        new = lots_of_residues()[surroundings[fold, site], dependence[fold, site], earlier, lots[site]]
        if ancestors is not None:
            unchanged = (above == site) | (ancestors[rows, above] == earlier)
            new = np.where(kept[site] & unchanged, ancestors[:, site], new)
        residues[:, site] = new
    return residues


def _stacked(folds: list[Fold]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surroundings, dependence and parent (F, W) of all folds, filled with coil."""
    width = max(len(fold.parent) for fold in folds)
    shape = len(folds), width
    surroundings, dependence, parent = (
        np.full(shape, COIL),
        np.full(shape, FREE),
        np.tile(np.arange(width), (shape[0], 1)),
    )
    for row, fold in enumerate(folds):
        here = slice(len(fold.parent))
        surroundings[row, here], dependence[row, here], parent[row, here] = fold[1:4]
    return surroundings, dependence, parent


@lru_cache(maxsize=2)
def _built(seed: int, folds: int, superfamilies: int, families: int) -> Universe:
    """Held out are the last fifth of the folds, of the others the last superfamily, of its sisters the last family."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"universe")]))
    drawn: dict[tuple[str, tuple[int, ...]], Fold] = {}
    while len(drawn) < folds:
        plan = architecture(generator)
        if plan not in drawn:
            drawn[plan] = build_fold(*plan)
    fold, superfamily, family = (axis.ravel() for axis in np.indices((folds, superfamilies, families)))
    role = np.where(family < families - 1, Role.TRAIN, Role.FAMILY)
    role = np.where(superfamily < superfamilies - 1, role, Role.SUPERFAMILY)
    role = np.where(fold < folds - max(1, folds // 5), role, Role.FOLD)
    superfamily += fold * superfamilies
    longest = np.array([len(each.parent) for each in drawn.values()])
    length = longest[fold] - generator.integers(0, TAIL, folds * superfamilies)[superfamily]
    universe = Universe(list(drawn.values()), fold, superfamily, role, length, np.zeros(0, np.int64))
    founders = _drawn(universe, np.repeat(np.arange(folds), superfamilies), generator)
    return universe._replace(ancestor=_drawn(universe, fold, generator, founders[superfamily]))


def _indices(letters: str) -> np.ndarray:
    return np.array([AMINO_ACIDS.index(letter) for letter in letters])
