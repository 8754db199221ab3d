"""The contact map that a fine-tuning leaves is the one it was scored by, of the paper's protein or else of the longest."""

from pathlib import Path

import numpy as np
import pytest

from proteinlm.errors import InputError
from proteinlm.records import contact_map, predictions, run_directory
from proteinlm.records.contact_map import ContactMap
from proteinlm.training import finetuning
from tests.tasks import toys


def test_its_precision_is_that_of_the_saved_predictions(tmp_path: Path):
    with toys.in_place():
        finetuning.run(toys.composed("task=contact", f"output={tmp_path}"))
        proteins = toys.labelled(toys.composed("task=contact").data, "proteinnet", "test")  # type: ignore[arg-type]
    home = toys.home(tmp_path, "contact")
    drawn, scored = contact_map.load(home), predictions.load(home)
    lengths = [len(protein["primary"]) for protein in proteins]
    assert drawn.length == max(lengths)
    assert drawn.name == f"test-{drawn.record}"
    assert not drawn.of_paper
    assert (drawn.logits == drawn.logits.T).all()
    for n in (1, 2, 5):
        for separation in (6, 12, 24):
            sample = scored["test", f"precision_at_l{n if n > 1 else ''}_separation_{separation}"]
            value = sample.value[drawn.seed, list(sample.record).index(drawn.record)]  # type: ignore[attr-defined]
            pairs = drawn.best(separation, n)
            assert (pairs[:, 1] - pairs[:, 0] >= separation).all()
            assert value == (pytest.approx(drawn.precision(separation, n)) if len(pairs) else 0)


def test_the_protein_of_the_paper_goes_first():
    lengths = np.array([30, 50, 40])
    assert contact_map.chosen(["a", "b", "TBM#T0889"], lengths) == 2
    assert contact_map.chosen(["5jo9_1_A", "b", "c"], lengths) == 0
    assert contact_map.chosen(["a", "b", "c"], lengths) == 1
    assert contact_map.chosen([], lengths) == 1


def test_it_comes_back_as_it_was(tmp_path: Path):
    logits = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    made = ContactMap("T0889", 3, 0, logits, logits > 0, np.arange(9) > 0)
    contact_map.save(tmp_path, made)
    again = contact_map.load(tmp_path)
    assert (again.name, again.record, again.seed, again.of_paper) == ("T0889", 3, 0, True)
    assert all((getattr(again, field) == getattr(made, field)).all() for field in ("logits", "contacts", "resolved"))


def test_what_is_no_map_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no contact_map\.npz in it"):
        contact_map.load(tmp_path)
    np.savez(tmp_path / run_directory.CONTACT_MAP, logits=np.zeros(3))
    with pytest.raises(InputError, match=r"contact_map\.npz: not a contact map of this version"):
        contact_map.load(tmp_path)
