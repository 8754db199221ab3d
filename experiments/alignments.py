"""Contacts that are read off alignments, on the chains that have one: ``python -m experiments.alignments --data synthetic``.

Every method is scored on the same chains, beside the separation along the sequence alone; `--model` adds what a language
model's attention says of the query. These chains are a set of their own: their scores do not belong into a column with
those of a whole test set.

- ``synthetic``: the test chains of the embedded universe, each with made-up relatives of its family
- a directory: the alignments in its ``alignments/`` whose query is part of a chain of known structure in it
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from proteinlm.config import SyntheticDataConfig
from proteinlm.data import synthetic
from proteinlm.data.alignments.reading import Alignment, read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.synthetic.families import generator_of, members, universe_of
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.inference.model import load
from proteinlm.launch import entry
from proteinlm.models import potts
from proteinlm.records.bootstrap import bootstrap
from proteinlm.records.results import Score
from proteinlm.storage.atomic import write_text
from proteinlm.tasks.metrics import ContactPrecision

COLUMNS = [f"precision_at_l{n}_separation_{least}" for least in (6, 24) for n in ("", "2", "5")]
PSEUDOCOUNT = 0.5
"""Of the mean field: half of the counts are even (Morcos et al. 2011)."""


class AlignedChain(NamedTuple):
    """A chain of known structure and an alignment of it, in the alignment's columns."""

    alignment: Alignment
    chain: SolvedChain


Contacts = Callable[[AlignedChain], np.ndarray]
"""From a chain to scores (L, L) of its pairs."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    methods: dict[str, Contacts] = {
        "potts": pseudo_likelihood,
        "mean field": mean_field,
        "separation alone": lambda aligned: -_separation(len(aligned.chain.letters)),
    }
    if options.model:
        methods["attention of the query"] = attention_of(options.model)
    scores = score(chains(options.data, options.depth), methods)
    for name, found in scores.items():
        print(f"{name:24}" + "  ".join(f"{s.text()} ({s.low or 0:.2f}-{s.high or 0:.2f})" for s in found))
    if options.output:
        values = {name: [asdict(each) for each in found] for name, found in scores.items()}
        write_text(options.output, json.dumps({"depth": options.depth, "scores": values}, indent=2) + "\n")
    return 0


def score(aligned: Iterator[AlignedChain], methods: dict[str, Contacts]) -> dict[str, list[Score]]:
    """The scores in `COLUMNS` of each method, on the same chains; prints each chain's and its processor time."""
    metrics = {name: ContactPrecision() for name in methods}
    for record, each in enumerate(aligned):
        depth = sequence_weights(each.alignment.letters).sum()
        print(f"{each.alignment.origin}: {each.alignment.depth:,} rows, {depth:,.0f} effective", flush=True)
        for name, contacts in methods.items():
            begin = time.process_time()
            found = torch.from_numpy(contacts(each))
            seconds = time.process_time() - begin
            truth = (torch.from_numpy(each.chain.contacts), torch.from_numpy(each.chain.resolved), record)
            metrics[name].update(found, *truth)
            alone = ContactPrecision()
            alone.update(found, *truth)
            values = [alone.per_record()[column].estimate() for column in COLUMNS]
            print(f"  {name:24}" + " ".join(f"{value:.3f}" for value in values) + f"  {seconds:6.2f} s", flush=True)
    samples = {name: metric.per_record() for name, metric in metrics.items()}
    return {
        name: [Score("contact", "aligned", c, of[c].estimate(), *bootstrap(of[c]), of[c].n) for c in COLUMNS]
        for name, of in samples.items()
    }


def pseudo_likelihood(aligned: AlignedChain) -> np.ndarray:
    letters = aligned.alignment.letters
    weights = torch.from_numpy(sequence_weights(letters)).float()
    return potts.fit(torch.from_numpy(potts.states_of(letters)), weights).contacts().numpy()


def mean_field(aligned: AlignedChain) -> np.ndarray:
    """The peer: couplings by one inversion of the covariance (Morcos et al. 2011), corrected in the same way."""
    states = potts.states_of(aligned.alignment.letters)
    weights = sequence_weights(aligned.alignment.letters)
    length, q = states.shape[1], potts.STATES
    hot = np.eye(q)[states].reshape(len(states), -1)
    share = weights / weights.sum()
    single = (1 - PSEUDOCOUNT) * (share @ hot).reshape(length, q) + PSEUDOCOUNT / q
    double = (1 - PSEUDOCOUNT) * ((hot * share[:, None]).T @ hot).reshape(length, q, length, q) + PSEUDOCOUNT / q**2
    for column in range(length):
        double[column, :, column] = np.diag(single[column])
    covariance = (double - single[:, :, None, None] * single)[:, :-1, :, :-1].reshape(length * (q - 1), -1)
    couplings = np.zeros((length, q, length, q))
    couplings[:, :-1, :, :-1] = -np.linalg.inv(covariance).reshape(length, q - 1, length, q - 1)
    return potts.Potts(torch.zeros(length, q), torch.from_numpy(couplings)).contacts().numpy()


def attention_of(directory: Path) -> Contacts:
    """Contacts in a language model's attention, by the readout saved beside its weights."""
    model = load(directory, device="cpu")
    readout = attention_contacts.load(model, directory)
    return lambda aligned: readout.probabilities(model, aligned.chain.letters).numpy()


def chains(data: str, depth: int) -> Iterator[AlignedChain]:
    """The chains that have an alignment; `InputError` if there is none."""
    return _made_up(depth) if data == "synthetic" else _real(data)


def _made_up(depth: int) -> Iterator[AlignedChain]:
    config = SyntheticDataConfig()
    universe = universe_of(config)
    records = synthetic.labelled(config, "proteinnet", "test")
    for record, chain in zip(records, attention_contacts.solved_chains("synthetic", "test"), strict=True):
        family = int(record["id"].split("/")[2].removeprefix("family"))
        generator = generator_of(config, "alignment", record["id"])
        relatives = members(universe, np.repeat(family, depth - 1), generator)[:, : len(chain.letters)]
        letters = np.vstack([chain.letters, LETTERS[relatives]])
        yield AlignedChain(Alignment([record["id"]] * depth, letters, record["id"]), chain)


def _real(data: str) -> Iterator[AlignedChain]:
    paths = [path for path in sorted(Path(data, "alignments").glob("*")) if path.suffix in (".a3m", ".gz", ".xz")]
    if not paths:
        raise InputError(f"{data}/alignments: no alignment in it")
    known = [chain for split in ("train", "valid", "test") for chain in attention_contacts.solved_chains(data, split)]
    whole = [chain.letters.tobytes() for chain in known]
    for path in paths:
        alignment = read_alignment(path)
        query = alignment.query.tobytes()
        found = next((number for number, letters in enumerate(whole) if query in letters), None)
        if found is None:
            print(f"{path}: left out: no chain of known structure holds its query")
            continue
        here = slice(begin := whole[found].index(query), begin + len(query))
        contacts, resolved = known[found].contacts[here, here], known[found].resolved[here]
        yield AlignedChain(alignment, SolvedChain(alignment.query, contacts, resolved))


def _separation(length: int) -> np.ndarray:
    place = np.arange(length, dtype=np.float32)
    return np.abs(place[:, None] - place)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.alignments", description="Contacts of alignments.")
    parser.add_argument("--data", default="synthetic", help="synthetic, or a directory with alignments/ in it")
    parser.add_argument("--depth", type=int, default=250, help="rows of a made-up alignment")
    parser.add_argument("--model", type=Path, help="weights whose attention is read as well")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
