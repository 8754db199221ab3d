"""A small MSA Transformer learns from made-up families what holds for others; killed, it goes on to the same weights."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import aligned_chains, alignments, family_training, msa_pretraining
from proteinlm.config import SyntheticDataConfig
from proteinlm.data.synthetic.families import Role, universe_of
from proteinlm.errors import InputError
from proteinlm.inference.msa import MSAReader
from proteinlm.models.msa_transformer import CLS, MASK, MSATransformer
from tests.experiments.interruption import stopped_after

CONFIG = SyntheticDataConfig(folds=20, labelled=0.04)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msa_pretraining, "ROWS", 4)
    monkeypatch.setattr(msa_pretraining, "FITTED_CHAINS", 2)


@pytest.mark.usefixtures("few_rows")
def test_a_killed_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    msa_pretraining.train(CONFIG, tmp_path / "undisturbed", 5)
    with monkeypatch.context() as patched:
        patched.setattr(family_training, "SAVED_EVERY", 0.0)
        patched.setattr(msa_pretraining, "_loss", stopped_after(3, msa_pretraining))
        with pytest.raises(KeyboardInterrupt):
            msa_pretraining.train(CONFIG, tmp_path / "killed", 5)
    with pytest.raises(InputError, match="of a run with other data or steps"):
        msa_pretraining.train(CONFIG, tmp_path / "killed", 6)
    monkeypatch.setattr(msa_pretraining, "_loss", stopped_after(2, msa_pretraining))
    msa_pretraining.train(CONFIG, tmp_path / "killed", 5)
    for directory in ("killed", "undisturbed"):
        assert sorted(file.name for file in (tmp_path / directory).iterdir()) == ["config.json", "model.safetensors"]
    one, other = ((tmp_path / each / "model.safetensors").read_bytes() for each in ("killed", "undisturbed"))
    assert one == other
    monkeypatch.setattr(msa_pretraining, "_loss", stopped_after(0, msa_pretraining))
    msa_pretraining.train(CONFIG, tmp_path / "killed", 5)  # nothing is left to do


def test_a_damaged_state_is_named(tmp_path: Path):
    for content in (b"", b"no state", b"\x80\x02."):
        (tmp_path / "training.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"training\.pt: damaged"):
            msa_pretraining.train(CONFIG, tmp_path, 1)


def test_a_share_of_the_residues_is_guessed_and_not_all_of_them_are_hidden(monkeypatch: pytest.MonkeyPatch):
    """What the model reads differs from the alignment in 90 % of the guessed residues by MASK or by another amino acid."""
    universe = universe_of(CONFIG)
    read: list[torch.Tensor] = []
    model = msa_pretraining._new_model(int(universe.length.max()))
    guessed: list[int] = []
    forward, logits = model.forward, model.logits
    monkeypatch.setattr(model, "forward", lambda tokens: read.append(tokens) or forward(tokens))
    monkeypatch.setattr(model, "logits", lambda hidden: guessed.append(len(hidden)) or logits(hidden))
    families = universe.of(Role.TRAIN)
    size, changed, masked = 0, 0, 0
    for number in range(8):
        loss = msa_pretraining._loss(model, universe, np.random.default_rng(number))
        assert 2.5 < loss.item() < 4.5  # before training, about log 33
        draw = np.random.default_rng(number)
        family = int(families[draw.integers(len(families))])
        truth = family_training.draw_alignment(universe, family, msa_pretraining.ROWS, draw)
        there = torch.from_numpy(msa_pretraining.encode(truth))
        assert (read[-1][:, 0] == CLS).all()
        size += truth.size
        changed += int((read[-1] != there).sum())
        masked += int((read[-1] == MASK).sum())
    assert sum(guessed) / size == pytest.approx(0.15, rel=0.05)
    assert masked / sum(guessed) == pytest.approx(0.8, rel=0.05)
    assert (changed - masked) / sum(guessed) == pytest.approx(0.1 * 19 / 20, rel=0.25)


@pytest.mark.slow
def test_contacts_of_folds_that_it_has_not_seen_are_found(tmp_path: Path):
    """In P@L a Potts model of all 250 rows finds fewer, as residues depend on one other at most."""
    config = SyntheticDataConfig()
    trained = msa_pretraining.train(config, tmp_path)
    assert isinstance(trained, MSATransformer)
    reader = MSAReader(tmp_path, torch.device("cpu"))
    chains = islice(aligned_chains.chains(config, 250, ("test",)), 20)
    methods = {"msa": lambda aligned: reader.contacts(aligned.alignment), "potts": alignments.pseudo_likelihood}
    samples = alignments.score(chains, methods)
    found = {name: {column: sample.estimate() for column, sample in each.items()} for name, each in samples.items()}
    assert found["msa"]["precision_at_l5_separation_6"] >= 0.85
    assert found["msa"]["precision_at_l_separation_6"] > found["potts"]["precision_at_l_separation_6"] + 0.02


def test_another_universe_is_another_model(tmp_path: Path, few_rows: None):
    one, other = (SyntheticDataConfig(folds=20, labelled=0.04, seed=seed) for seed in (0, 1))
    first, second = (msa_pretraining.train(each, tmp_path / str(each.seed), 1) for each in (one, other))
    assert not torch.equal(first.tokens.weight, second.tokens.weight)
