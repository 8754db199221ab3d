"""Records become the right targets, unresolved residues are no targets, and every unusable record is named in one line."""

import json
import logging
import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proteinlm.config import LabelledTaskConfig, SecondaryStructureConfig
from proteinlm.data import store
from proteinlm.data.batches.labelled import LabelledBatches, LabelledProteins, read
from proteinlm.data.batches.schedule import MicroBatch
from proteinlm.errors import InputError
from proteinlm.tasks import TASKS, downstream
from proteinlm.tasks.contact import contacts, places_of_residues, resolved
from proteinlm.tasks.regression import Scale
from tests.data.samples import write_lmdb

STRUCTURE = {
    "id": "1abcA",
    "primary": "ACDE",
    "ss3": np.array([0, 1, 2, -1]),
    "ss8": np.array([7, 0, 3, -1]),
    "valid_mask": np.array([1.0, 0.0, 1.0, 1.0], np.float32),
}
FOLD = {"id": "d1", "primary": "ACD", "fold_label": 1194}
BRIGHT = {"primary": "ACD", "log_fluorescence": np.array([3.5], np.float32), "num_mutations": 1}
STABLE = {"primary": "ACD", "stability_score": [0.25]}
STRAIGHT = np.stack([np.arange(12) * 1.0, np.ones(12), np.zeros(12)], axis=1)  # a residue every Å
CHAIN = {
    "id": "2xyz",
    "primary": "ACDEFGHIKLMN",
    "tertiary": STRAIGHT,
    "valid_mask": np.array([True] * 3 + [False] + [True] * 8),
}


def config(task: str, classes: int = 3) -> LabelledTaskConfig:
    if task == "secondary_structure":
        return SecondaryStructureConfig(classes=classes)
    return LabelledTaskConfig(name=task)


def proteins(task: str, *records: dict[str, Any], classes: int = 3, longest: int = 100) -> LabelledProteins:
    chosen = config(task, classes)
    return read(records, downstream(task).labels(chosen), origin="file.json", longest=longest)


def batch(found: LabelledProteins, *records: int) -> Any:
    return LabelledBatches(found, seed=0)[MicroBatch(0, 0, np.array(records), 1)]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_found_by_its_name(task: str):
    found = downstream(task)
    assert list(found.splits)[:2] == ["train", "valid"]
    assert len(found.splits) >= 3


@pytest.mark.parametrize(("classes", "expected"), [(3, [0, -1, 2, -1]), (8, [7, -1, 3, -1])])
def test_unresolved_and_unknown_residues_have_no_structure(classes: int, expected: list[int]):
    found = proteins("secondary_structure", STRUCTURE, STRUCTURE | {"primary": "WWWW"}, classes=classes)
    assert found.targets[0].tolist() == expected
    assert found.terms.tolist() == [2, 2]
    made = batch(found, 1, 0)
    assert made.targets.tolist() == [-1, *expected, -1, *expected]  # [CLS] has none either
    assert made.targets.dtype == torch.int64
    assert made.packed.starts.tolist() == [0, 5, 10]


def test_a_protein_has_one_fold_and_one_number():
    assert batch(proteins("remote_homology", FOLD, FOLD | {"fold_label": 3}), 1, 0).targets.tolist() == [3, 1194]
    assert batch(found := proteins("fluorescence", BRIGHT), 0).targets.tolist() == [3.5]
    assert found.terms.tolist() == [1]
    assert batch(proteins("stability", STABLE, STABLE | {"stability_score": 2.0}), 0, 1).targets.tolist() == [0.25, 2.0]


def test_contacts_are_nearer_than_eight_angstroms_and_only_between_resolved_residues():
    found = proteins("contact", CHAIN)
    made = batch(found, 0)
    (places,) = places_of_residues(made)
    assert made.targets[0].isnan().all()
    assert torch.equal(resolved(places), torch.from_numpy(CHAIN["valid_mask"]))
    for i, j in combinations(range(12), 2):
        assert contacts(places)[i, j] == (j - i < 8 and 3 not in (i, j))
    far_apart = [(i, j) for i, j in combinations(range(12), 2) if j - i >= 6 and 3 not in (i, j)]
    assert found.terms.tolist() == [len(far_apart)]


def test_coordinates_of_unresolved_residues_may_be_anything():
    tertiary = STRAIGHT.copy()
    tertiary[3] = np.nan
    assert np.array_equal(
        proteins("contact", CHAIN | {"tertiary": tertiary}).targets[0],
        proteins("contact", CHAIN).targets[0],
        equal_nan=True,
    )


@pytest.mark.parametrize("kind", ["lmdb", "json", "proteinnet"])
def test_residues_at_zero_are_unresolved_in_every_format(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture):
    length, absent = 60, slice(20, 45)
    record = {
        "id": "3abc",
        "primary": "ACDEFGHIKLMN" * 5,
        "tertiary": 3.8 * (1 + np.arange(length)[:, None] * np.array([1.0, 0.5, 0.0])).astype(np.float32),
        "valid_mask": np.ones(length, bool),
    }
    record["tertiary"][absent] = 0
    record["tertiary"][3] = (0, 0, 1)
    whole = CHAIN | {"primary": "ACDEFGHIKLMN" * 5, "tertiary": record["tertiary"][::-1].copy()}
    whole |= {"valid_mask": np.zeros(length, bool)}  # its zeros are where the mask says so
    place = tmp_path / "data" / "proteinnet"
    if kind == "lmdb":
        write_lmdb(place / "proteinnet_test.lmdb", [pickle.dumps(record), pickle.dumps(whole)])
    elif kind == "json":
        place.mkdir(parents=True)
        plain = [
            {name: getattr(value, "tolist", lambda v=value: v)() for name, value in r.items()} for r in (record, whole)
        ]
        (place / "proteinnet_test.json").write_text(json.dumps(plain))
    else:
        place.mkdir(parents=True)
        (place / "proteinnet_test.txt").write_text("".join(map(as_proteinnet, (record, whole))))
    records = store.ensure(tmp_path / "data", tmp_path / "cache").records("proteinnet", "test")
    with caplog.at_level(logging.WARNING):
        found = read(records, downstream("contact").labels(config("contact")), origin="file", longest=100)
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "file: 25 residues at (0, 0, 0) are taken as unresolved (in 1 proteins)"
    (places, _) = places_of_residues(batch(found, 0, 1))
    assert resolved(places).tolist() == [not 20 <= index < 45 for index in range(length)]
    assert not contacts(places)[absent, absent].any()
    assert found.terms[1] == 0


def as_proteinnet(record: dict[str, Any]) -> str:
    """The record as ProteinNet's text, in picometres."""
    atoms = np.repeat(100 * record["tertiary"], 3, axis=0).T
    rows = "\n".join(" ".join(f"{number:.3f}" for number in row) for row in atoms)
    mask = "".join("+" if valid else "-" for valid in record["valid_mask"])
    return f"[ID]\n{record['id']}\n[PRIMARY]\n{record['primary']}\n[TERTIARY]\n{rows}\n[MASK]\n{mask}\n\n"


def test_far_from_the_origin_contacts_are_the_same():
    (here,) = places_of_residues(batch(proteins("contact", CHAIN), 0))
    assert torch.equal(contacts(here), contacts(here + 4096))


def test_only_proteins_with_a_label_are_learnt_from():
    nothing = STRUCTURE | {"ss8": np.full(4, -1)}
    found = proteins("secondary_structure", nothing, STRUCTURE, nothing, classes=8)
    assert len(found.letters) == 3
    assert found.labelled().terms.tolist() == [2]


@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_targets_are_standardised_and_restored(unit: float):
    scale = Scale()
    values = unit * torch.tensor([1.0, 2.0, 6.0])
    scale.fit(values.numpy())
    standardised = scale.standardise(values)
    assert standardised.mean().item() == pytest.approx(0, abs=1e-6)
    assert standardised.std(correction=0).item() == pytest.approx(1)
    assert torch.allclose(scale.restore(standardised), values)


def test_a_constant_target_is_standardised_to_zero():
    scale = Scale()
    scale.fit(np.full(3, 7.0, np.float32))
    assert scale.standardise(torch.tensor(7.0)).item() == 0
    assert scale.restore(torch.tensor(1.0)).item() == 8, "in its own unit"


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("secondary_structure", STRUCTURE | {"ss3": np.zeros(3)}, r"\(1abcA\): ss3 has shape \(3,\), not \(4,\) for 4"),
        ("secondary_structure", STRUCTURE | {"valid_mask": np.ones(5)}, r"valid_mask has shape \(5,\), not \(4,\)"),
        ("secondary_structure", STRUCTURE | {"ss3": np.array([0, 3, 0, 0])}, r"ss3 is 3 at residue 2, not 0 to 2"),
        ("secondary_structure", STRUCTURE | {"ss3": np.array([0, 0, np.nan, 0])}, r"ss3 is nan at residue 3"),
        ("secondary_structure", STRUCTURE | {"ss3": None}, r"no ss3"),
        ("remote_homology", FOLD | {"fold_label": 1195}, r"\(d1\): fold_label is 1195, not 0 to 1194"),
        ("remote_homology", FOLD | {"fold_label": -1}, r"fold_label is -1, not 0 to 1194"),
        ("remote_homology", FOLD | {"fold_label": float("nan")}, r"fold_label is nan, not 0 to 1194"),
        ("remote_homology", FOLD | {"fold_label": "a.1"}, r"fold_label is not numbers"),
        ("fluorescence", BRIGHT | {"log_fluorescence": np.array([np.nan])}, r"log_fluorescence is nan"),
        ("fluorescence", {"primary": "ACD"}, r"no log_fluorescence"),
        ("stability", STABLE | {"stability_score": [np.inf]}, r"stability_score is inf"),
        ("stability", STABLE | {"stability_score": [1.0, 2.0]}, r"stability_score has shape \(2,\), not \(\)"),
        ("contact", CHAIN | {"tertiary": STRAIGHT[:, :2]}, r"\(2xyz\): tertiary has shape \(12, 2\), not \(12, 3\)"),
        ("contact", CHAIN | {"tertiary": STRAIGHT[:9]}, r"tertiary has shape \(9, 3\), not \(12, 3\) for 12 residues"),
        ("contact", CHAIN | {"tertiary": np.where(STRAIGHT == 5, np.nan, STRAIGHT)}, r"not finite at residue 6"),
        ("contact", CHAIN | {"valid_mask": np.ones(3)}, r"valid_mask has shape \(3,\), not \(12,\)"),
        ("stability", STABLE | {"primary": ""}, r"no primary sequence"),
        ("stability", STABLE | {"primary": "AJD"}, r"letter 'J' at position 2"),
        ("stability", STABLE | {"primary": "A" * 101}, r"101 residues, more than the 100 that the model has positions"),
    ],
)
def test_an_unusable_record_is_named(task: str, record: dict[str, Any], message: str):
    good = {"secondary_structure": STRUCTURE, "remote_homology": FOLD, "fluorescence": BRIGHT, "contact": CHAIN}
    with pytest.raises(InputError, match=message) as caught:
        proteins(task, good.get(task, STABLE), record)
    assert str(caught.value).startswith("file.json, record 1")
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_named():
    with pytest.raises(InputError, match=r"file.json: no proteins in it"):
        proteins("stability")
