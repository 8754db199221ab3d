"""Chains of known structure that have an alignment: of the embedded universe, or alignments that lie beside the chains.

L residues.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from proteinlm.config import DataConfig, FilesDataConfig, SyntheticDataConfig
from proteinlm.data import sources, synthetic
from proteinlm.data.alignments.reading import Alignment, read_alignment
from proteinlm.data.synthetic.families import generator_of, members, universe_of
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.errors import InputError
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.tasks import contact
from proteinlm.tasks.contact import Contact


class AlignedChain(NamedTuple):
    """A chain of known structure and an alignment of it, in the alignment's columns."""

    alignment: Alignment
    chain: SolvedChain


def chains(config: DataConfig, depth: int, splits: Sequence[str]) -> Iterator[tuple[int, AlignedChain]]:
    """Record numbers, and the chains of these splits that have an alignment; `InputError` if there is none.

    The universe's are of its test split, with `depth` rows.
    """
    if isinstance(config, SyntheticDataConfig):
        return _made_up(config, depth)
    assert isinstance(config, FilesDataConfig)
    return _real(config, splits)


def _made_up(config: SyntheticDataConfig, depth: int) -> Iterator[tuple[int, AlignedChain]]:
    universe = universe_of(config)
    for number, record in enumerate(synthetic.labelled(config, "proteinnet", "test")):
        chain, name = solved(record), record["id"]
        family = int(name.split("/")[2].removeprefix("family"))
        drawn = members(universe, np.repeat(family, depth - 1), generator_of(config, "alignment", name))
        letters = np.vstack([chain.letters, LETTERS[drawn[:, : len(chain.letters)]]])
        yield number, AlignedChain(Alignment([name] * depth, letters, name), chain)


def _real(config: FilesDataConfig, splits: Sequence[str]) -> Iterator[tuple[int, AlignedChain]]:
    directory = Path(config.root, "alignments")
    paths = [path for path in sorted(directory.glob("*")) if {".a3m", ".sto", ".fasta"} & set(path.suffixes[-2:])]
    if not paths:
        raise InputError(f"{directory}: no alignment in it")
    source = sources.labelled(config, Contact.dataset, tuple(splits))
    known = [(number, solved(record)) for split in splits for number, record in enumerate(source.records(split))]
    found = False
    for path in paths:
        alignment = read_alignment(path)
        query = alignment.query.tobytes()
        number, whole = next((each for each in known if query in each[1].letters.tobytes()), (-1, None))
        if whole is None:
            print(f"{path}: left out: no chain of known structure in {', '.join(splits)} holds its query")
            continue
        found = True
        here = slice(begin := whole.letters.tobytes().index(query), begin + len(query))
        chain = SolvedChain(alignment.query, whole.contacts[here, here], whole.resolved[here])
        yield number, AlignedChain(alignment, chain)
    if not found:
        raise InputError(f"{directory}: none of its alignments belongs to a chain of known structure")


def solved(record: dict[str, Any]) -> SolvedChain:
    places = torch.from_numpy(contact.coordinates(record))
    letters = np.frombuffer(record["primary"].encode(), np.uint8)
    return SolvedChain(letters, contact.contacts(places).numpy(), contact.resolved(places).numpy())
