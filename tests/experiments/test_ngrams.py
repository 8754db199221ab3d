"""Counting models weigh what is shown by the rule of masking, and neighbours by how often they stand together."""

import math

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import ngrams
from proteinlm.config import register_schema
from proteinlm.data.masking import mask
from proteinlm.data.packing import lay_out
from proteinlm.vocabulary import AMINO_ACID_IDS, AMINO_ACIDS
from tests.runs import ROOT


def test_a_residue_is_shown_as_the_rule_says():
    assert ngrams.SHOWN[AMINO_ACID_IDS].sum(axis=1) == pytest.approx(np.ones(20))
    alanine = np.frombuffer(b"A" * 100_000, np.uint8)
    masked = mask(lay_out([alanine]), np.zeros(1, np.int64), percent=15, seed=0, epoch=0)
    shown = np.bincount(masked.packed.tokens[masked.positions].numpy(), minlength=ngrams.LETTERS) / len(masked.targets)
    assert shown == pytest.approx(ngrams.SHOWN[AMINO_ACID_IDS[0]], abs=0.01)


def test_each_knowledge_is_worth_what_information_theory_says():
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("pretrain", ["name=a", "model=tiny", "data.folds=5", "train.micro_batch_tokens=2048"])
    found = ngrams.score(OmegaConf.to_object(composed))["valid"]
    assert list(found) == ["frequencies", "residue shown", "and left neighbour", "and both neighbours"]
    assert found["residue shown"] < found["frequencies"] < len(AMINO_ACIDS)
    # with frequencies near uniform, half of what is shown and no mask is right
    uniform = np.full(20, 1 / 20)
    told = ngrams.SHOWN[AMINO_ACID_IDS][:, :].T * uniform  # (token, residue): joint
    entropy = -sum(
        joint * math.log(joint / row.sum()) for row in told[told.sum(axis=1) > 0] for joint in row if joint > 0
    )
    assert math.exp(entropy) / 20 == pytest.approx(found["residue shown"] / found["frequencies"], rel=0.02)
