"""Counting models weigh what is shown by the rule of masking, and neighbours by how often they stand together."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import ngrams
from proteinlm.config import register_schema
from proteinlm.data import sources
from proteinlm.data.batches.masking import mask, shown_as
from proteinlm.data.batches.packing import pack_letters
from proteinlm.vocabulary import AMINO_ACID_IDS
from tests.runs import ROOT


def test_a_residue_is_shown_as_the_rule_says():
    assert shown_as()[AMINO_ACID_IDS].sum(axis=1) == pytest.approx(np.ones(20))
    alanine = np.frombuffer(b"A" * 100_000, np.uint8)
    masked = mask(pack_letters([alanine]), np.zeros(1, np.int64), percent=15, seed=0, epoch=0)
    shown = np.bincount(masked.packed.tokens[masked.positions].numpy(), minlength=ngrams.LETTERS) / len(masked.targets)
    assert shown == pytest.approx(shown_as()[AMINO_ACID_IDS[0]], abs=0.01)


def test_each_knowledge_is_worth_what_information_theory_says():
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("pretrain", ["name=a", "model=tiny"])
    config = OmegaConf.to_object(composed)
    found = ngrams.score(config)["valid"]
    assert list(found) == ["frequencies", "residue shown", "and left neighbour", "and both neighbours"]
    singles, _ = ngrams.count(sources.corpus(config.data).splits["train"])
    frequency = singles / singles.sum()
    joint = frequency[:, None] * shown_as()  # (residue, token)
    assert found["frequencies"] == pytest.approx(np.exp(entropy(frequency)), rel=0.03)
    assert found["residue shown"] == pytest.approx(np.exp(entropy(joint) - entropy(joint.sum(axis=0))), rel=0.03)


def entropy(probability: np.ndarray) -> float:
    """In nats."""
    some = probability[probability > 0]
    return float(-(some * np.log(some)).sum())
