"""How often each two amino acids touch, on chains of known structure: ``python -m experiments.contact_potential DIR``.

DIR has ProteinNet in it, whose training chains are counted. It prints the table of `proteinlm.models.contact_evidence`.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.aligned_chains import solved
from proteinlm.config import FilesDataConfig
from proteinlm.data import sources
from proteinlm.errors import InputError
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.launch import entry
from proteinlm.models.potts import GAP_STATE, states_of
from proteinlm.records.contact_map import LONG
from proteinlm.tasks.contact import Contact
from proteinlm.vocabulary import AMINO_ACIDS

SHORTEST, LONGEST = 60, 300
"""Residues of a chain that is counted."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.contact_potential", description="Pairs that touch.")
    parser.add_argument("data", type=Path, help="directory with ProteinNet in it")
    parser.add_argument("--without", nargs="*", default=[], help="how the identifiers of chains to leave out begin")
    options = parser.parse_args(arguments)
    config = FilesDataConfig(root=str(options.data))
    records = sources.labelled(config, Contact.dataset, ("train",)).records("train")
    left_out = tuple(options.without)
    chains = [solved(each) for each in records if not each["id"].startswith(left_out)]
    counted = [chain for chain in chains if SHORTEST <= len(chain.letters) <= LONGEST]
    print(f"{len(counted):,} chains")
    for letter, row in zip(AMINO_ACIDS, log_odds(counted), strict=True):
        print(f"{letter} " + " ".join(f"{value:5.2f}" for value in row))
    return 0


def log_odds(chains: Iterable[SolvedChain]) -> np.ndarray:
    """How much likelier each two amino acids touch than any two do, `LONG` apart or more: (20, 20) logarithms.

    Each chain counts by its residues, as it has about as many contacts. `InputError` if two amino acids never touch.
    """
    touching, all_pairs = np.zeros((2, len(AMINO_ACIDS) ** 2))
    for chain in chains:
        states = states_of(chain.letters)
        known = chain.resolved & (states != GAP_STATE)
        first, second = np.nonzero(np.triu(known[:, None] & known, LONG))
        pairs = states[first] * len(AMINO_ACIDS) + states[second]
        for found, of in ((touching, pairs[chain.contacts[first, second]]), (all_pairs, pairs)):
            found += np.bincount(of, minlength=len(found)) / len(states)
    both = [each.reshape(len(AMINO_ACIDS), -1) + each.reshape(len(AMINO_ACIDS), -1).T for each in (touching, all_pairs)]
    if not both[0].all():
        raise InputError("too few chains: two amino acids never touch in them")
    return np.log(both[0] / both[1]) - np.log(both[0].sum() / both[1].sum())


if __name__ == "__main__":
    entry.command(main)
