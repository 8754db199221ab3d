"""Relatives stay in one split: clusters join what is alike above the identity asked for, and splits are of whole ones."""

import numpy as np
import pytest

from proteinlm.data.similarity.clusters import WORD, clusters, draw_splits
from proteinlm.errors import InputError
from proteinlm.vocabulary import AMINO_ACIDS


def random(length: int, generator: np.random.Generator) -> str:
    return "".join(generator.choice(list(AMINO_ACIDS), length))


def mutated(sequence: str, identity: float, generator: np.random.Generator) -> str:
    changed = generator.random(len(sequence)) >= identity
    other = {letter: AMINO_ACIDS[(place + 7) % 20] for place, letter in enumerate(AMINO_ACIDS)}
    return "".join(other[a] if change else a for a, change in zip(sequence, changed, strict=True))


@pytest.mark.parametrize("length", [60, 300, 1000])
def test_relatives_join_and_strangers_do_not(length: int):
    generator = np.random.default_rng(length)
    parents = [random(length, generator) for _ in range(20)]
    family = [[parent, *(mutated(parent, 0.8, generator) for _ in range(4))] for parent in parents]
    found = clusters([member for members in family for member in members], 0.5).reshape(20, 5)
    assert (found == found[:, :1]).all(), "0.8 is above 0.5"
    assert len(np.unique(found)) == 20


@pytest.mark.parametrize(("identity", "joined"), [(0.9, 0.0), (0.6, 0.5), (0.4, 1.0)])
def test_the_identity_decides(identity: float, joined: float):
    """Pairs that agree in 60 % of their residues, the changes at random places: on average just enough words for 0.6."""
    generator = np.random.default_rng(1)
    pairs = [(parent := random(400, generator), mutated(parent, 0.6, generator)) for _ in range(60)]
    found = clusters([sequence for pair in pairs for sequence in pair], identity).reshape(60, 2)
    assert (found[:, 0] == found[:, 1]).mean() == pytest.approx(joined, abs=0.25 if joined == 0.5 else 0.02)


def test_a_part_joins_the_whole_and_insertions_do_no_harm():
    generator = np.random.default_rng(2)
    whole = random(200, generator)
    related = [whole, whole[50:120], whole[:100] + random(20, generator) + whole[100:]]
    assert len(set(clusters([*related, random(200, generator)], 0.8).tolist())) == 2


def test_equals_join_at_any_identity_and_words_need_letters():
    assert clusters(["ACDEFGHIKL", "ACDEFGHIKL", "ACDEFGHIKM"], 1.0).tolist() == [0, 0, 2]
    assert clusters(["ACDEFGHIKL", "ACDEFGHI"], 1.0).tolist() == [0, 1], "a part is no equal"
    assert WORD == 4
    assert clusters(["ACD", "ACD", "ACE"], 0.5).tolist() == [0, 0, 2]


def test_as_many_words_as_are_asked_for_are_enough():
    """Of 16 words, 16 / 2^4 is one."""
    letters = AMINO_ACIDS[:19]
    one_word, no_word = letters[:4] + letters[:3:-1], letters[:3] + letters[:2:-1]
    assert clusters([letters, one_word], 0.5).tolist() == [0, 0]
    assert clusters([letters, no_word], 0.5).tolist() == [0, 1]


def test_splits_are_of_whole_clusters_near_their_shares_and_follow_the_seed():
    cluster = np.random.default_rng(3).integers(0, 200, 1000)
    split = draw_splits(cluster, 0.1, 0.2, seed=0)
    for number in np.unique(cluster):
        assert len(set(split[cluster == number])) == 1
    assert np.mean(split == "valid") == pytest.approx(0.1, abs=0.01)
    assert np.mean(split == "test") == pytest.approx(0.2, abs=0.01)
    assert (split == draw_splits(cluster, 0.1, 0.2, seed=0)).all()
    assert (split != draw_splits(cluster, 0.1, 0.2, seed=1)).any()


def test_a_large_family_is_learnt_from():
    cluster = np.array([0] * 80 + list(range(1, 21)))
    split = draw_splits(cluster, 0.1, 0.1, seed=0)
    assert set(split[:80]) == {"train"}
    assert np.sum(split == "valid") == np.sum(split == "test") == 10


def test_one_family_cannot_be_divided():
    with pytest.raises(
        InputError, match=r"10 proteins in 1 clusters of similar sequences leave nothing for .*: add a split"
    ):
        draw_splits(np.zeros(10, int), 0.1, 0.1, seed=0)
    assert set(draw_splits(np.arange(10), 0.1, 0.0, seed=0)) == {"train", "valid"}
