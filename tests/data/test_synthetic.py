"""The synthetic universe is the same everywhere, keeps its splits apart, and its one pairing rule holds in every family."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from proteinlm.config import SyntheticDataConfig
from proteinlm.data.store.sequences import Sequences
from proteinlm.data.synthetic import SIZES, corpus, labelled
from proteinlm.data.synthetic.families import COMPLEMENTS, Universe, energy, members, universe_of
from proteinlm.data.synthetic.folds import COMPLEMENTARY, FREE, contacts
from proteinlm.data.synthetic.records import Record
from proteinlm.errors import InputError
from proteinlm.vocabulary import AMINO_ACIDS

CONFIG = SyntheticDataConfig(folds=30, members=4)

FINGERPRINT = """
import hashlib, json, sys
from proteinlm.config import SyntheticDataConfig
from proteinlm.data import synthetic
config = SyntheticDataConfig(folds=10, members=1, labelled=0.05, seed=int(sys.argv[1]))
text = json.dumps([synthetic.corpus(config, split).to_pydict() for split in ("train", "valid", "holdout")])
for task, splits in synthetic.SIZES.items():
    for split in splits:
        for record in synthetic.labelled(config, task, split):
            text += repr([(name, getattr(value, "tolist", lambda value=value: value)()) for name, value in record.items()])
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return {split: corpus(CONFIG, split) for split in ("train", "valid", "holdout")}


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, list[Record]]]:
    return {task: {split: labelled(CONFIG, task, split) for split in splits} for task, splits in SIZES.items()}


def test_a_seed_gives_the_same_universe_in_another_process() -> None:
    def fingerprint(seed: int, hash_seed: str) -> str:
        command = [sys.executable, "-c", FINGERPRINT, str(seed)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    first = fingerprint(0, "1")
    assert first == fingerprint(0, "2")
    assert first != fingerprint(1, "1")


def test_a_universe_does_not_depend_on_what_was_asked_before(tables: dict[str, pa.Table]) -> None:
    assert corpus(CONFIG, "holdout").equals(tables["holdout"])
    assert digest(labelled(CONFIG, "stability", "valid")) == digest(labelled(CONFIG, "stability", "valid"))


def test_corpus_is_columns_of_standard_amino_acids(tables: dict[str, pa.Table]) -> None:
    for table in tables.values():
        assert table.schema == pa.schema([("id", pa.string()), ("sequence", pa.large_string())])
        assert table["sequence"].num_chunks == 1
        proteins = table["sequence"].to_pylist()
        assert set("".join(proteins)) == set(AMINO_ACIDS)
        assert Sequences(table["sequence"]).lengths().tolist() == [len(protein) for protein in proteins]
        assert 40 <= min(map(len, proteins)) < max(map(len, proteins)) <= 90
        assert len(set(table["id"].to_pylist())) == len(table)


def test_valid_has_new_members_of_the_families_in_train(tables: dict[str, pa.Table]) -> None:
    assert lineages(tables["valid"], "family") == lineages(tables["train"], "family")
    assert not set(tables["valid"]["sequence"].to_pylist()) & set(tables["train"]["sequence"].to_pylist())


def test_holdout_has_superfamilies_and_folds_unseen_in_train(tables: dict[str, pa.Table]) -> None:
    assert not lineages(tables["holdout"], "superfamily") & lineages(tables["train"], "superfamily")
    assert not lineages(tables["holdout"], "family") & lineages(tables["train"], "family")
    new = lineages(tables["holdout"], "fold") - lineages(tables["train"], "fold")
    assert len(new) == CONFIG.folds // 5


def test_members_resemble_their_family_most_then_their_superfamily(tables: dict[str, pa.Table]) -> None:
    universe = universe_of(CONFIG)
    same = identity(universe, lambda family: family)
    sisters = identity(universe, lambda family: family + (1 if family % CONFIG.families == 0 else -1))
    strangers = identity(universe, lambda family: (family + len(universe.fold) // 2) % len(universe.fold))
    assert same > sisters + 0.02 > strangers + 0.04


def test_one_pairing_rule_holds_at_the_contacts_of_families_never_seen(
    records: dict[str, dict[str, list[Record]]],
) -> None:
    rates = []
    for record in records["proteinnet"]["test"]:
        complementary, contact, separation = pair_maps(record)
        rates.append([complementary[chosen & (separation >= 6)].mean() for chosen in (contact, ~contact)])
    at_contacts, elsewhere = np.array(rates).T
    assert at_contacts.mean() > 2 * elsewhere.mean()
    assert (at_contacts > elsewhere).mean() > 0.9
    letters = "".join(AMINO_ACIDS)
    scrambled = str.maketrans(letters, letters[7:] + letters[:7])
    for record in records["proteinnet"]["test"]:  # another table says nothing
        complementary, contact, separation = pair_maps(record | {"primary": record["primary"].translate(scrambled)})
        rates.append([complementary[chosen & (separation >= 6)].mean() for chosen in (contact, ~contact)])
    at_contacts, elsewhere = np.array(rates[len(rates) // 2 :]).T
    assert at_contacts.mean() < 1.3 * elsewhere.mean()


def test_partners_are_neighbours_in_space(records: dict[str, dict[str, list[Record]]]) -> None:
    for fold in universe_of(CONFIG).folds:
        paired = np.flatnonzero((fold.dependence == COMPLEMENTARY) & (fold.secondary == 4))
        assert contacts(fold.coordinates)[paired, fold.parent[paired]].all()
        assert (fold.parent <= np.arange(len(fold.parent))).all()
        bonds = np.linalg.norm(np.diff(fold.coordinates, axis=0), axis=1)
        assert 3.7 < bonds.min() <= bonds.max() < 5.2


def test_contacts_lie_near_and_far_along_the_chain(records: dict[str, dict[str, list[Record]]]) -> None:
    counts = []
    for record in records["proteinnet"]["test"]:
        _, contact, separation = pair_maps(record)
        counts.append([(contact & (separation >= least)).sum() / record["protein_length"] for least in (6, 12, 24)])
    near, middle, far = np.mean(counts, axis=0)
    assert 1.0 < near < 3.0
    assert middle > 0.5
    assert far > 0.2


def test_energy_is_lower_for_natural_than_for_shuffled_proteins() -> None:
    universe, generator = universe_of(CONFIG), np.random.default_rng(0)
    families = np.full(50, 7)
    natural = members(universe, families, generator)[:, : universe.length[7]]
    fold = universe.folds[universe.fold[7]]
    shuffled = generator.permuted(natural, axis=1)
    assert energy(fold, natural).max() < energy(fold, shuffled).min()


@pytest.mark.parametrize("task", SIZES)
def test_labelled_sets_have_the_promised_sizes_and_share_no_sequence(
    task: str, records: dict[str, dict[str, list[Record]]]
) -> None:
    assert {split: len(found) for split, found in records[task].items()} == SIZES[task]
    proteins = [record["primary"] for found in records[task].values() for record in found]
    assert len(set(proteins)) == len(proteins)
    for record in (record for found in records[task].values() for record in found):
        assert set(record["primary"]) <= set(AMINO_ACIDS)
        assert record["protein_length"] == len(record["primary"])


@pytest.mark.parametrize(
    ("task", "fields"),
    {
        "secondary_structure": {"ss3": ("int32", "L"), "ss8": ("int32", "L"), "valid_mask": ("float32", "L")},
        "proteinnet": {"tertiary": ("float32", "L3"), "valid_mask": ("bool", "L")},
        "fluorescence": {"log_fluorescence": ("float32", "1")},
        "stability": {"stability_score": ("float32", "1")},
    }.items(),
)
def test_arrays_have_the_types_and_shapes_of_tape(
    task: str, fields: dict[str, tuple[str, str]], records: dict[str, dict[str, list[Record]]]
) -> None:
    for record in (record for found in records[task].values() for record in found):
        shapes = {"L": (len(record["primary"]),), "L3": (len(record["primary"]), 3), "1": (1,)}
        for name, (dtype, shape) in fields.items():
            assert record[name].dtype == dtype
            assert record[name].shape == shapes[shape]


def test_secondary_structure_codes_agree(records: dict[str, dict[str, list[Record]]]) -> None:
    ss3_of = dict(zip("GHIBESTC", [0, 0, 0, 1, 1, 2, 2, 2], strict=True))
    masked = 0.0
    for record in records["secondary_structure"]["train"]:
        assert [ss3_of["GHIBESTC"[code]] for code in record["ss8"]] == record["ss3"].tolist()
        masked += 1 - record["valid_mask"].mean()
        assert record["valid_mask"][3:-3].all()
    assert masked > 0


def test_structures_to_predict_are_of_families_unseen_in_train(
    tables: dict[str, pa.Table], records: dict[str, dict[str, list[Record]]]
) -> None:
    trained = lineages(tables["train"], "family")
    for task, splits in (("secondary_structure", ("cb513", "ts115", "casp12")), ("proteinnet", ("test",))):
        for split in splits:
            assert not of_level(records[task][split], "family") & trained
        assert of_level(records[task]["train"], "family") <= trained
    for found in (records["secondary_structure"]["casp12"], records["proteinnet"]["test"]):
        assert not of_level(found, "fold") & lineages(tables["train"], "fold")


def test_remote_homology_holds_out_what_its_splits_are_called_after(
    records: dict[str, dict[str, list[Record]]],
) -> None:
    labels = {
        split: {level: {record[f"{level}_label"] for record in found} for level in ("fold", "superfamily", "family")}
        for split, found in records["remote_homology"].items()
    }
    train = labels["train"]
    assert labels["valid"]["family"] <= train["family"]
    assert labels["test_family_holdout"]["family"] <= train["family"]
    assert labels["test_superfamily_holdout"]["superfamily"] <= train["superfamily"]
    assert not labels["test_superfamily_holdout"]["family"] & train["family"]
    assert labels["test_fold_holdout"]["fold"] <= train["fold"]
    assert not labels["test_fold_holdout"]["superfamily"] & train["superfamily"]
    assert train["fold"] == set(range(20))
    counts = np.bincount([record["fold_label"] for record in records["remote_homology"]["train"]])
    assert counts.min() == counts.max() == SIZES["remote_homology"]["train"] / 20


def test_fluorescence_extrapolates_from_few_mutations_to_many(
    records: dict[str, dict[str, list[Record]]],
) -> None:
    mutations = {
        split: np.array([record["num_mutations"] for record in found])
        for split, found in records["fluorescence"].items()
    }
    assert set(mutations["train"]) == set(mutations["valid"]) == {1, 2, 3}
    assert mutations["test"].min() >= 4
    brightness = np.array([record["log_fluorescence"][0] for record in records["fluorescence"]["train"]])
    dark, between, bright = np.histogram(brightness, [0, 1.9, 2.9, 9])[0]
    assert min(dark, bright) > between


def test_stability_is_tested_around_other_parents(records: dict[str, dict[str, list[Record]]]) -> None:
    parents = {split: {record["parent"] for record in found} for split, found in records["stability"].items()}
    assert not parents["test"] & (parents["train"] | parents["valid"])
    assert min(map(len, parents.values())) > 30


def test_what_suits_the_surroundings_is_a_part_of_stability_and_pairs_are_more(
    records: dict[str, dict[str, list[Record]]],
) -> None:
    universe = universe_of(CONFIG)
    scores, alone, whole = [], [], []
    for record in records["stability"]["test"]:
        family = int(record["parent"].removeprefix("family"))
        fold, residues = universe.folds[universe.fold[family]], residues_of(record)[None]
        free = fold._replace(dependence=np.full_like(fold.dependence, FREE))
        scores.append(record["stability_score"][0])
        alone.append(-energy(free, residues)[0])
        whole.append(-energy(fold, residues)[0])
    by_residue, by_pairs = (float(stats.spearmanr(each, scores).statistic) for each in (alone, whole))  # type: ignore[attr-defined]
    assert 0.35 < by_residue < 0.65
    assert by_residue + 0.2 < by_pairs


def residues_of(record: Record) -> np.ndarray:
    return np.array([AMINO_ACIDS.index(letter) for letter in record["primary"]])


def test_names_and_knobs_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="split 'test' is not one of train, valid, holdout"):
        corpus(CONFIG, "test")
    with pytest.raises(InputError, match="task 'folding'"):
        labelled(CONFIG, "folding", "train")
    with pytest.raises(InputError, match="split 'test' is not one of train, valid, cb513"):
        labelled(CONFIG, "secondary_structure", "test")
    with pytest.raises(InputError, match=r"data\.folds=2"):
        SyntheticDataConfig(folds=2)


def digest(found: list[Record]) -> str:
    plain = [{name: getattr(value, "tolist", lambda v=value: v)() for name, value in each.items()} for each in found]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def lineages(table: pa.Table, level: str) -> set[str]:
    return of_level([{"id": name} for name in table["id"].to_pylist()], level)


def of_level(found: list[Record], level: str) -> set[str]:
    place = ("fold", "superfamily", "family").index(level)
    return {record["id"].split("/")[place] for record in found}


def identity(universe: Universe, other: Callable[[int], int]) -> float:
    """Mean share of equal residues between members of families and of the families that `other` names."""
    generator = np.random.default_rng(0)
    families = np.arange(0, len(universe.fold), 3)
    others = np.array([other(family) for family in families])
    first, second = (members(universe, each, generator) for each in (families, others))
    shared = np.arange(first.shape[1]) < np.minimum(universe.length[families], universe.length[others])[:, None]
    return float((first == second)[shared].mean())


def pair_maps(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs (L, L) of resolved residues are complementary, which in contact, and how far apart along the chain."""
    kind = {
        letter: 2 * pair + side for pair, sides in enumerate(COMPLEMENTS) for side in (0, 1) for letter in sides[side]
    }
    kinds = np.array([kind.get(letter, -9) for letter in record["primary"]])
    place = np.arange(len(kinds))
    resolved = record["valid_mask"][:, None] & record["valid_mask"]
    contact = contacts(record["tertiary"])
    separation = np.where(resolved, abs(place[:, None] - place), 0)
    return (kinds[:, None] ^ 1) == kinds, contact, separation
