"""A made-up universe of proteins, so that everything runs without a download. It is not biology.

`folds` lays chains out in space, `families` lets families descend and draws their members, and this makes of them what
pretraining and the five tasks read.

What the universe rewards: to know which residues suit a strand, a helix or a loop, which is secondary structure and can
be read off a few neighbours; and to find partners across the chain by the rule that they obey in all families, which is
contacts, most of the energy behind stability and fluorescence, and what tells folds apart. What it does not reward: to
remember families, since test proteins descend from others; or more than two residues at once, since a residue depends on
one other at most. No set was made with a depth or a width in mind.

M families, N proteins, L residues. Residues are indices of the 20 amino acids.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from proteinlm.config import SyntheticDataConfig
from proteinlm.data.synthetic.families import (
    CHANCES,
    HELD_OUT,
    Role,
    Universe,
    energy,
    generator_of,
    log_probability,
    lots_of_residues,
    members,
    universe_of,
)
from proteinlm.data.synthetic.folds import COMPLEMENTARY, FREE, Fold
from proteinlm.errors import InputError
from proteinlm.vocabulary import AMINO_ACIDS, SS3_OF_SS8

Record = dict[str, Any]
LETTERS = np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)

SIZES = {
    "secondary_structure": {"train": 300, "valid": 80, "cb513": 120, "ts115": 60, "casp12": 40},
    "proteinnet": {"train": 120, "valid": 40, "test": 80},
    "remote_homology": {
        "train": 900,
        "valid": 100,
        "test_fold_holdout": 300,
        "test_superfamily_holdout": 150,
        "test_family_holdout": 150,
    },
    "fluorescence": {"train": 1000, "valid": 250, "test": 1000},
    "stability": {"train": 1200, "valid": 200, "test": 400},
}
"""Records of each labelled set, times ``data.labelled``."""
FOLDS = 20
"""Folds to tell apart in remote homology at most: 45 training proteins of each, from nine families. The largest shape of the
laptop profile gets 0.43 of them right after 120 thousand labelled tokens, but 0.08 of all 80 with 11 proteins of each."""


def corpus(config: SyntheticDataConfig, split: str) -> pa.Table:
    """The pretraining corpus: columns id and sequence. Valid has unseen members of the families in train."""
    per_family = {"train": config.members, "valid": 1, "holdout": 4}
    if split not in per_family:
        raise InputError(f"split {split!r} is not one of {', '.join(per_family)}")
    universe = universe_of(config)
    families = np.repeat(universe.of(*(HELD_OUT if split == "holdout" else (Role.TRAIN,))), per_family[split])
    residues = members(universe, families, generator_of(config, "corpus", split))
    lengths = universe.length[families]
    letters = LETTERS[residues[np.arange(residues.shape[1]) < lengths[:, None]]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = pa.LargeStringArray.from_buffers(len(families), pa.py_buffer(offsets), pa.py_buffer(letters))
    return pa.table({"id": names(universe, families, split), "sequence": sequences})


def labelled(config: SyntheticDataConfig, task: str, split: str) -> list[Record]:
    """Records of a downstream task with TAPE's field names; `SIZES` has the tasks and their splits."""
    for kind, name, choices in (("task", task, SIZES), ("split", split, SIZES.get(task, {}))):
        if name not in choices:
            raise InputError(f"{kind} {name!r} is not one of {', '.join(choices)}")
    return _RECORDS[task](config, split, _size(config, task, split))


def _secondary_structure(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Test proteins come from families that the corpus has in its holdout only; those of casp12 from new folds."""
    roles = {"cb513": HELD_OUT, "ts115": HELD_OUT, "casp12": (Role.FOLD,)}.get(split, (Role.TRAIN,))
    universe, generator = universe_of(config), generator_of(config, "secondary_structure", split)
    families = _choice(universe.of(*roles), count, generator)
    records = _proteins(universe, families, split, generator)
    for record, fold in zip(records, universe.fold[families], strict=True):
        ss8 = universe.folds[fold].secondary[: record["protein_length"]]
        record |= {"ss3": SS3_OF_SS8[ss8], "ss8": ss8, "valid_mask": _resolved(len(ss8), generator).astype(np.float32)}
    return records


def _proteinnet(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Test proteins are of new folds, which the corpus has in its holdout only."""
    universe, generator = universe_of(config), generator_of(config, "proteinnet", split)
    families = _choice(universe.of(Role.FOLD if split == "test" else Role.TRAIN), count, generator)
    records = _proteins(universe, families, split, generator)
    for record, fold in zip(records, universe.fold[families], strict=True):
        resolved = _resolved(record["protein_length"], generator)
        coordinates = universe.folds[fold].coordinates[: len(resolved)]
        record |= {"tertiary": np.where(resolved[:, None], coordinates, 0).astype(np.float32), "valid_mask": resolved}
    return records


def _remote_homology(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Fold holdout: new superfamilies of the folds in train. Superfamily holdout: new families of its superfamilies."""
    universe = universe_of(config)
    known = universe.of(Role.TRAIN)
    trained = _choice(
        known[universe.fold[known] < FOLDS],
        _size(config, "remote_homology", "train"),
        generator_of(config, "remote_homology"),
    )
    generator = generator_of(config, "remote_homology", split)
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
    universe, generator = universe_of(config), generator_of(config, "fluorescence")
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
            "primary": text(mutant),
            "protein_length": len(mutant),
            "log_fluorescence": np.array([value], dtype=np.float32),
            "num_mutations": int((mutant != parent).sum()),
        }
        for mutant, value in zip(mutants, brightness, strict=True)
    ]


def _stability(config: SyntheticDataConfig, split: str, count: int) -> list[Record]:
    """Mutants of many small proteins, 1 to 16 mutations, half of them to any residue.

    Proteins for test are others than for train and valid, and of families that the corpus has in its holdout only.
    """
    universe, generator = universe_of(config), generator_of(config, "stability", "test" if split == "test" else "train")
    small = np.array([fold.elements.count("E") == 4 for fold in universe.folds])
    pool = universe.of(*(HELD_OUT if split == "test" else (Role.TRAIN,)))
    parents = generator.permutation(pool[small[universe.fold[pool]]])
    records: list[Record] = []
    wanted = count if split == "test" else sum(_size(config, "stability", name) for name in ("train", "valid"))
    shares = np.diff(np.linspace(0, wanted, len(parents) + 1).round().astype(int))
    kin = members(universe, np.repeat(parents, 50), generator).reshape(len(parents), 50, -1)
    for family, share, wide in zip(parents.tolist(), shares.tolist(), kin, strict=True):
        fold = universe.folds[universe.fold[family]]
        relatives = wide[:, : universe.length[family]]
        mutants = _mutants(fold, relatives[0], generator.integers(1, 17, 2 * share), generator, unfit=0.5)[:share]
        scores = 1.5 - (energy(fold, mutants) - energy(fold, relatives).mean()) / 12
        scores += 0.1 * generator.standard_normal(len(mutants))
        for mutant, score in zip(mutants, scores, strict=True):
            record = {"primary": text(mutant), "protein_length": len(mutant), "parent": f"family{family}"}
            records.append(record | {"stability_score": np.array([score], dtype=np.float32)})
    if split != "test":
        records = [records[row] for row in generator.permutation(len(records))]
        first = _size(config, "stability", "train")
        records = records[:first] if split == "train" else records[first:]
    return [{"id": f"{split}{row}"} | record for row, record in enumerate(records)]


def _mutants(
    fold: Fold, parent: np.ndarray, numbers: np.ndarray, generator: np.random.Generator, unfit: float = 0.0
) -> np.ndarray:
    """Distinct mutants (at most N, L) of a protein with so many (N,) mutations.

    A residue gives way to one that suits its surroundings, so what breaks is mostly pairs; a share of `unfit` gives way to
    any other. In half of those with several mutations, one makes up for another in its partner.
    """
    partner = np.full(len(parent), -1)
    second = np.flatnonzero(fold.dependence[: len(parent)] == COMPLEMENTARY)
    partner[second], partner[fold.parent[second]] = fold.parent[second], second
    mutants = np.tile(parent, (len(numbers), 1))
    for mutant, number in zip(mutants, numbers, strict=True):
        sites = generator.permutation(len(parent))[:number]
        lots = generator.integers(0, CHANCES, number)
        natural = lots_of_residues()[fold.surroundings[sites], FREE, 0, lots]
        another = (parent[sites] + generator.integers(1, len(AMINO_ACIDS), number)) % len(AMINO_ACIDS)
        anything = (natural == parent[sites]) | (generator.random(number) < unfit if unfit else False)
        mutant[sites] = np.where(anything, another, natural)
        site, other = sites[0], partner[sites[0]]
        if number > 1 and generator.random() < 0.5 and other >= 0 and other not in sites:
            rescue = log_probability()[fold.surroundings[other], COMPLEMENTARY, mutant[site]].argmax()
            if rescue != parent[other]:
                mutant[sites[-1]], mutant[other] = parent[sites[-1]], rescue
    _, first = np.unique(mutants, axis=0, return_index=True)
    return mutants[np.sort(first)]


def _proteins(universe: Universe, families: np.ndarray, split: str, generator: np.random.Generator) -> list[Record]:
    """New members of families (N,) with the fields common to all tasks."""
    residues = members(universe, families, generator)
    identifiers = names(universe, families, split)
    return [
        {"id": name, "primary": text(row[:length]), "protein_length": length}
        for name, row, length in zip(identifiers, residues, universe.length[families].tolist(), strict=True)
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


def names(universe: Universe, families: np.ndarray, split: str) -> list[str]:
    """``fold3/superfamily14/family57/train1234``: what a protein descends from, and its row."""
    return [
        f"fold{universe.fold[family]}/superfamily{universe.superfamily[family]}/family{family}/{split}{row}"
        for row, family in enumerate(families)
    ]


def text(residues: np.ndarray) -> str:
    return LETTERS[residues].tobytes().decode()


_RECORDS = {
    "secondary_structure": _secondary_structure,
    "proteinnet": _proteinnet,
    "remote_homology": _remote_homology,
    "fluorescence": _fluorescence,
    "stability": _stability,
}
