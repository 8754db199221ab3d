"""A made-up universe of proteins, so that everything runs without a download. It is not biology.

**Structure.** A protein is a chain of strands (5 residues) and helices (13), joined by loops (3). Its strands lie two by two
in ladders, 4.8 Å apart, parallel or antiparallel. Any two strands of the chain may share a ladder; which do is what tells
folds apart. Ladders and helices stand upright in a ring. Contacts are read off the C-alpha coordinates.

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
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from proteinlm.config import SyntheticDataConfig
from proteinlm.errors import InputError
from proteinlm.vocabulary import AMINO_ACIDS

Record = dict[str, Any]

SS8, SS3 = "GHIBESTC", np.array([0, 0, 0, 1, 1, 2, 2, 2], dtype=np.int32)  # TAPE's codes; 0 helix, 1 strand, 2 other
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
KEEP = 0.3  # of the ancestor's residues, at each step of descent

COMPLEMENTS = (("LF", "VI"), ("WM", "AC"), ("DE", "KR"), ("QT", "HY"))  # classes; the first two are hydrophobic
FLEXIBLE = "GPNS"  # the letters of loops
IN_STRAND, OUT_STRAND, IN_HELIX, OUT_HELIX, TURN, COIL, BEFORE_HELIX, AFTER_HELIX = range(8)  # surroundings
FREE, COMPLEMENTARY, ALIKE = range(3)  # how a residue depends on an earlier one
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


class Fold(NamedTuple):
    """The longest protein of a fold; families lack some of its last residues."""

    elements: str  # a letter of SS8 for each
    surroundings: np.ndarray  # (L,)
    dependence: np.ndarray  # (L,): FREE, COMPLEMENTARY or ALIKE
    parent: np.ndarray  # (L,): the earlier residue it depends on; itself if FREE
    secondary: np.ndarray  # (L,): index into SS8
    coordinates: np.ndarray  # (L, 3): C-alpha, Å


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


def corpus(config: SyntheticDataConfig, split: str) -> pa.Table:
    """The pretraining corpus: columns id and sequence. Valid has unseen members of the families in train."""
    per_family = {"train": config.members, "valid": 1, "holdout": 4}
    if split not in per_family:
        raise InputError(f"split {split!r} is not one of {', '.join(per_family)}")
    universe = _universe(config)
    families = np.repeat(universe.of(*(HELD_OUT if split == "holdout" else (Role.TRAIN,))), per_family[split])
    residues = members(universe, families, _generator(config, "corpus", split))
    lengths = universe.length[families]
    letters = _LETTERS[residues[np.arange(residues.shape[1]) < lengths[:, None]]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = pa.LargeStringArray.from_buffers(len(families), pa.py_buffer(offsets), pa.py_buffer(letters))
    return pa.table({"id": _names(universe, families, split), "sequence": sequences})


def labelled(config: SyntheticDataConfig, task: str, split: str) -> list[Record]:
    """Records of a downstream task with TAPE's field names; `SIZES` has the tasks and their splits."""
    for kind, name, choices in (("task", task, SIZES), ("split", split, SIZES.get(task, {}))):
        if name not in choices:
            raise InputError(f"{kind} {name!r} is not one of {', '.join(choices)}")
    return _RECORDS[task](config, split, _size(config, task, split))


def energy(fold: Fold, residues: np.ndarray) -> np.ndarray:
    """Minus the log-probability (N,) of proteins (N, L) in a fold: the fitness behind fluorescence and stability."""
    here = slice(residues.shape[1])
    parents = residues[:, fold.parent[here]]
    return -_log_probability()[fold.surroundings[here], fold.dependence[here], parents, residues].sum(axis=1)


def contacts(coordinates: np.ndarray) -> np.ndarray:
    """Which pairs (L, L) are closer than 8 Å."""
    return np.linalg.norm(coordinates[:, None] - coordinates, axis=-1) < 8.0


# Structure


@lru_cache(maxsize=2)
def _built(seed: int, folds: int, superfamilies: int, families: int) -> Universe:
    """Held out are the last fifth of the folds, of the others the last superfamily, of its sisters the last family."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"universe")]))
    drawn: dict[tuple[str, tuple[int, ...]], Fold] = {}
    while len(drawn) < folds:
        architecture = _architecture(generator)
        if architecture not in drawn:
            drawn[architecture] = _fold(*architecture)
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


def _architecture(generator: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """Elements of a chain, and the ladder of each strand: six strands and up to one helix, or four and one or two."""
    strands = 4 if generator.random() < 0.25 else 6
    helices = int(generator.integers(0, 2)) + (strands == 4)
    elements = np.array(["E"] * (strands + helices))
    places = generator.permutation(strands + helices)[:helices]
    elements[places] = np.array(list("GHHHHHHHII"))[generator.integers(0, 10, helices)]
    order = generator.permutation(np.repeat(np.arange(strands // 2), 2))
    _, first, ladder = np.unique(order, return_index=True, return_inverse=True)
    return "".join(elements), tuple(first.argsort().argsort()[ladder].tolist())


def _fold(elements: str, ladders: tuple[int, ...]) -> Fold:
    """Lay a chain out in space; ``ladders[s]`` is the place in the ring of strand s."""
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


# Sequence


@lru_cache(maxsize=1)
def _log_probability() -> np.ndarray:
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
def _lots() -> np.ndarray:
    """`_log_probability` as lots to draw: (surroundings, dependence, earlier residue, CHANCES) residues."""
    bounds = np.rint(np.cumsum(np.exp(_log_probability()), axis=-1) * CHANCES).astype(np.int64)
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
        new = _lots()[surroundings[fold, site], dependence[fold, site], earlier, lots[site]]
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


_LETTERS = np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)


def _indices(letters: str) -> np.ndarray:
    return np.array([AMINO_ACIDS.index(letter) for letter in letters])


def _universe(config: SyntheticDataConfig) -> Universe:
    return _built(config.seed, config.folds, config.superfamilies, config.families)


def _generator(config: SyntheticDataConfig, *names: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([config.seed, *(zlib.crc32(name.encode()) for name in names)]))


def _names(universe: Universe, families: np.ndarray, split: str) -> list[str]:
    """``fold3/superfamily14/family57/train1234``: what a protein descends from, and its row."""
    return [
        f"fold{universe.fold[family]}/superfamily{universe.superfamily[family]}/family{family}/{split}{row}"
        for row, family in enumerate(families)
    ]


# Labelled sets

SIZES = {
    "secondary_structure": {"train": 300, "valid": 80, "cb513": 120, "ts115": 60, "casp12": 40},
    "proteinnet": {"train": 120, "valid": 40, "test": 80},
    "remote_homology": {
        "train": 900,
        "valid": 100,
        "test_fold_holdout": 150,
        "test_superfamily_holdout": 150,
        "test_family_holdout": 150,
    },
    "fluorescence": {"train": 1000, "valid": 250, "test": 1000},
    "stability": {"train": 1200, "valid": 200, "test": 400},
}
"""Records of each labelled set, times ``data.labelled``."""


def _secondary_structure(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Test proteins come from families that the corpus has in its holdout only; those of casp12 from new folds."""
    roles = {"cb513": HELD_OUT, "ts115": HELD_OUT, "casp12": (Role.FOLD,)}.get(split, (Role.TRAIN,))
    universe, generator = _universe(config), _generator(config, "secondary_structure", split)
    families = _choice(universe.of(*roles), count, generator)
    records = _proteins(universe, families, split, generator)
    for record, fold in zip(records, universe.fold[families], strict=True):
        ss8 = universe.folds[fold].secondary[: record["protein_length"]]
        record |= {"ss3": SS3[ss8], "ss8": ss8, "valid_mask": _resolved(len(ss8), generator).astype(np.float32)}
    return records


def _proteinnet(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Test proteins are of new folds, which the corpus has in its holdout only."""
    universe, generator = _universe(config), _generator(config, "proteinnet", split)
    families = _choice(universe.of(Role.FOLD if split == "test" else Role.TRAIN), count, generator)
    records = _proteins(universe, families, split, generator)
    for record, fold in zip(records, universe.fold[families], strict=True):
        resolved = _resolved(record["protein_length"], generator)
        coordinates = universe.folds[fold].coordinates[: len(resolved)]
        record |= {"tertiary": np.where(resolved[:, None], coordinates, 0).astype(np.float32), "valid_mask": resolved}
    return records


def _remote_homology(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Fold holdout: new superfamilies of the folds in train. Superfamily holdout: new families of its superfamilies."""
    universe = _universe(config)
    trained = _choice(
        universe.of(Role.TRAIN), _size(config, "remote_homology", "train"), _generator(config, "remote_homology")
    )
    generator = _generator(config, "remote_homology", split)
    if split == "test_fold_holdout":
        pool = universe.of(Role.SUPERFAMILY)
        pool = pool[np.isin(universe.fold[pool], universe.fold[trained])]
    elif split == "test_superfamily_holdout":
        pool = universe.of(Role.FAMILY)
        pool = pool[np.isin(universe.superfamily[pool], universe.superfamily[trained])]
    else:
        pool = np.unique(trained)
    families = trained if split == "train" else _choice(pool, count, generator)
    records = _proteins(universe, families, split, generator)
    for record, family in zip(records, families.tolist(), strict=True):
        fold, superfamily = int(universe.fold[family]), int(universe.superfamily[family])
        helices = sum(kind != "E" for kind in universe.folds[fold].elements)
        record |= {"class_label": helices, "fold_label": fold, "superfamily_label": superfamily, "family_label": family}
    return records


def _fluorescence(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Mutants of one protein, 1 to 3 mutations in train and valid, 4 to 6 in test: bright, or dark where too much broke."""
    universe, generator = _universe(config), _generator(config, "fluorescence")
    family = universe.of(Role.TRAIN)[:1]
    fold = universe.folds[universe.fold[family[0]]]
    candidates = members(universe, np.repeat(family, 200), generator)[:, : universe.length[family[0]]]
    parent = candidates[energy(fold, candidates).argmin()]
    if split == "test":
        mutants = _mutants(fold, parent, generator.integers(4, 7, 2 * count), generator)[:count]
    else:
        sizes = {name: _size(config, "fluorescence", name) for name in ("train", "valid")}
        mutants = _mutants(fold, parent, generator.integers(1, 4, 2 * sum(sizes.values())), generator)
        mutants = mutants[: sizes["train"]] if split == "train" else mutants[sizes["train"] : sum(sizes.values())]
    loss = energy(fold, mutants) - energy(fold, parent[None])
    brightness = 1.3 + 2.4 / (1 + np.exp((loss - 13.0) / 1.2)) + 0.1 * generator.standard_normal(len(mutants))
    return [
        {
            "primary": _text(mutant),
            "protein_length": len(mutant),
            "log_fluorescence": np.array([value], dtype=np.float32),
            "num_mutations": int((mutant != parent).sum()),
        }
        for mutant, value in zip(mutants, brightness, strict=True)
    ]


def _stability(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Mutants of many small proteins; those for test are others than for train and valid, held out of the corpus."""
    universe, generator = _universe(config), _generator(config, "stability", "test" if split == "test" else "train")
    small = np.array([fold.elements.count("E") == 4 for fold in universe.folds])
    pool = universe.of(*(HELD_OUT if split == "test" else (Role.TRAIN,)))
    parents = generator.permutation(pool[small[universe.fold[pool]]])[: 40 if split == "test" else None]
    records: list[Record] = []
    wanted = count if split == "test" else sum(_size(config, "stability", name) for name in ("train", "valid"))
    shares = np.diff(np.linspace(0, wanted, len(parents) + 1).round().astype(int))
    kin = members(universe, np.repeat(parents, 50), generator).reshape(len(parents), 50, -1)
    for family, share, wide in zip(parents.tolist(), shares.tolist(), kin, strict=True):
        fold = universe.folds[universe.fold[family]]
        relatives = wide[:, : universe.length[family]]
        mutants = _mutants(fold, relatives[0], generator.integers(1, 9, 2 * share), generator)[:share]
        scores = 1.5 - (energy(fold, mutants) - energy(fold, relatives).mean()) / 12
        scores += 0.1 * generator.standard_normal(len(mutants))
        for mutant, score in zip(mutants, scores, strict=True):
            record = {"primary": _text(mutant), "protein_length": len(mutant), "parent": f"family{family}"}
            records.append(record | {"stability_score": np.array([score], dtype=np.float32)})
    if split != "test":
        records = [records[row] for row in generator.permutation(len(records))]
        first = _size(config, "stability", "train")
        records = records[:first] if split == "train" else records[first:]
    return [{"id": f"{split}{row}"} | record for row, record in enumerate(records)]


def _mutants(fold: Fold, parent: np.ndarray, numbers: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Distinct mutants (at most N, L) of a protein with so many (N,) mutations.

    A residue gives way to one that suits its surroundings, so what breaks is mostly pairs. In half of those with several
    mutations, one makes up for another in its partner.
    """
    partner = np.full(len(parent), -1)
    second = np.flatnonzero(fold.dependence[: len(parent)] == COMPLEMENTARY)
    partner[second], partner[fold.parent[second]] = fold.parent[second], second
    mutants = np.tile(parent, (len(numbers), 1))
    for mutant, number in zip(mutants, numbers, strict=True):
        sites = generator.permutation(len(parent))[:number]
        lots = generator.integers(0, CHANCES, number)
        natural = _lots()[fold.surroundings[sites], FREE, 0, lots]
        another = (parent[sites] + generator.integers(1, len(AMINO_ACIDS), number)) % len(AMINO_ACIDS)
        mutant[sites] = np.where(natural == parent[sites], another, natural)
        site, other = sites[0], partner[sites[0]]
        if number > 1 and generator.random() < 0.5 and other >= 0 and other not in sites:
            rescue = _log_probability()[fold.surroundings[other], COMPLEMENTARY, mutant[site]].argmax()
            if rescue != parent[other]:
                mutant[sites[-1]], mutant[other] = parent[sites[-1]], rescue
    _, first = np.unique(mutants, axis=0, return_index=True)
    return mutants[np.sort(first)]


def _proteins(universe: Universe, families: np.ndarray, split: str, generator: np.random.Generator) -> list[Record]:
    """New members of families (N,) with the fields common to all tasks."""
    residues = members(universe, families, generator)
    names = _names(universe, families, split)
    return [
        {"id": name, "primary": _text(row[:length]), "protein_length": length}
        for name, row, length in zip(names, residues, universe.length[families].tolist(), strict=True)
    ]


def _choice(families: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """So many of the families in random order, all of them about equally often."""
    return np.resize(generator.permutation(families), count)


def _resolved(length: int, generator: np.random.Generator) -> np.ndarray:
    """Which residues (L,) an experiment would see: up to three at each end are missing."""
    missing = generator.integers(0, 4, 2)
    return (np.arange(length) >= missing[0]) & (np.arange(length) < length - missing[1])


def _size(config: SyntheticDataConfig, task: str, split: str) -> int:
    return max(2, round(SIZES[task][split] * config.labelled))


def _text(residues: np.ndarray) -> str:
    return _LETTERS[residues].tobytes().decode()


_RECORDS = {
    "secondary_structure": _secondary_structure,
    "proteinnet": _proteinnet,
    "remote_homology": _remote_homology,
    "fluorescence": _fluorescence,
    "stability": _stability,
}
