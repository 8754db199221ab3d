"""The log-odds of two residues that touch are those of a count pair by pair, each chain by its residues."""

import itertools
from math import log
from pathlib import Path

import numpy as np
import pytest

from experiments import contact_potential
from proteinlm.data import sources
from proteinlm.errors import InputError
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.models import contact_evidence
from proteinlm.vocabulary import AMINO_ACIDS
from tests.data.samples import protein


def chain(length: int, seed: int) -> SolvedChain:
    generator = np.random.default_rng(seed)
    touching = np.triu(generator.random((length, length)) < 0.5, 1)
    letters = np.frombuffer(protein(length, seed).encode(), np.uint8).copy()
    letters[5] = ord("X")
    return SolvedChain(letters, touching | touching.T, np.arange(length) != 3)


def test_log_odds_are_those_of_a_count():
    chains = [chain(300, 1), chain(200, 2)]
    touching, of_all = np.zeros((2, 20, 20))
    for each in chains:
        for i, j in itertools.permutations(range(len(each.letters)), 2):
            a, b = (AMINO_ACIDS.find(chr(each.letters[place])) for place in (i, j))
            if abs(i - j) >= 24 and min(a, b) >= 0 and each.resolved[i] and each.resolved[j]:
                of_all[a, b] += 1 / len(each.letters)
                touching[a, b] += each.contacts[i, j] / len(each.letters)
    found = contact_potential.log_odds(chains)
    assert np.ptp(found) > 0.1
    overall = log(touching.sum() / of_all.sum())
    np.testing.assert_allclose(found, np.log(touching / of_all) - overall, atol=1e-9)


def test_what_is_printed_is_read_as_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A chain is left out by its name, or for its length."""
    sizes = {"1ABC_A": 300, "2ABC_A": 300, "3ABC_A": 301, "4ABC_A": 200}
    chains = {name: chain(length, seed) for seed, (name, length) in enumerate(sizes.items())}
    source = type("Source", (), {"records": lambda self, split: [{"id": name} for name in chains]})()
    monkeypatch.setattr(sources, "labelled", lambda *_: source)
    monkeypatch.setattr(contact_potential, "solved", lambda record: chains[record["id"]])
    assert contact_potential.main([str(Path("somewhere")), "--without", "2ABC"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "2 chains"
    expected = contact_potential.log_odds([chains["1ABC_A"], chains["4ABC_A"]])
    np.testing.assert_allclose(contact_evidence._read("\n".join(rows)), expected, atol=0.0051)


def test_too_few_chains_are_refused():
    with pytest.raises(InputError, match="two amino acids never touch"):
        contact_potential.log_odds([chain(70, 1)])
