"""The contact map that a fine-tuning leaves is the one it was scored by, of the paper's protein or else of the longest."""

from pathlib import Path

import numpy as np
import pytest

from proteinlm.errors import InputError
from proteinlm.records import contact_map, predictions, run_directory
from proteinlm.records.contact_map import ContactMap
from proteinlm.training import finetuning
from tests.tasks import toys


def test_the_protein_of_the_paper_goes_first():
    lengths = np.array([30, 50, 40])
    assert contact_map.choose_chain(["a", "b", "TBM#T0889"], lengths) == 2
    assert contact_map.choose_chain(["5jo9_1_A", "b", "c"], lengths) == 0
    assert contact_map.choose_chain(["a", "b", "c"], lengths) == 1
    assert contact_map.choose_chain([], lengths) == 1


def small(logits: dict[tuple[int, int], float], length: int = 8, unresolved: int | None = None) -> ContactMap:
    """A map in which the pairs of `logits` alone are likelier than not, and the pairs (i, i + 3) touch."""
    values = np.full((length, length), -2.0, np.float32)
    for (i, j), logit in logits.items():
        values[i, j] = values[j, i] = logit
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return ContactMap("", 0, 0, values, apart == 3, np.arange(length) != unresolved)


def test_the_most_confident_pairs_are_taken_and_ties_go_to_the_lower():
    drawn = small({(0, 3): 1.0, (2, 6): 3.0, (1, 2): 5.0, (4, 7): 1.0})
    assert drawn.best(3, 2).tolist() == [[2, 6], [0, 3], [4, 7], [0, 4]]  # 8 / 2 pairs; (1, 2) is too near
    assert drawn.precision(3, 2) == 0.5
    assert drawn.best(3).tolist() == [[2, 6], [0, 3], [4, 7], [0, 4], [0, 5], [0, 6], [0, 7], [1, 4]]
    assert drawn.precision(3) == 3 / 8
    assert drawn.best(3, 50).tolist() == [[2, 6]], "one at least"
    assert len(drawn.best(7, 1)) == 1
    assert np.isnan(drawn.precision(8, 1))
    unresolved = small({(0, 3): 1.0, (2, 6): 3.0}, unresolved=6)
    assert unresolved.best(3, 3).tolist() == [[0, 3], [0, 4]]  # 7 // 3 pairs, none with residue 6


def test_ranges_are_those_of_casp():
    assert (contact_map.MEDIUM, contact_map.LONG) == (12, 24)


def test_the_picture_shows_the_truth_below_the_diagonal_and_the_head_above():
    drawn = small({(0, 3): np.log(3.0)}, length=4)
    assert drawn.probabilities[0, 3] == pytest.approx(0.75)
    assert drawn.picture(smallest=4).tolist()[0] == [255, 224, 224, 63]  # white to black: 255 * (1 - probability)
    assert drawn.picture(smallest=4).tolist()[3] == [0, 255, 255, 255]
    larger = drawn.picture(smallest=9)
    assert larger.shape == (12, 12), "the least whole multiple that is not smaller"
    assert (larger[:3, 9:] == 63).all()
    assert (larger[9:, :3] == 0).all()


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
    pickled = vars(small({})) | {"logits": np.array([{}], dtype=object)}
    np.savez(tmp_path / run_directory.CONTACT_MAP, **pickled)
    with pytest.raises(InputError, match="allow_pickle=False"):  # a pickle may run code when it is read
        contact_map.load(tmp_path)


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
