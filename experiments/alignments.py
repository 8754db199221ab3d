"""Contacts that are read off alignments, on the chains that have one: ``python -m experiments.alignments --data synthetic``.

Every method is scored on the same chains, beside the separation along the sequence alone; `--model` adds what a language
model's attention says of the query, and `--msa-transformer` what an imported MSA Transformer says of the alignment. A
sweep on the embedded universe without such weights trains a small one (`experiments.msa_pretraining`). These chains are a
set of their own: their scores do not belong into a column with those of a whole test set.

- ``--data synthetic``: the test chains of the embedded universe, each with made-up relatives of its family
- ``--data DIR``: the alignments in its ``alignments/`` whose query is part of a chain of known structure in it
- ``--sweep DIR``: the test chains of a sweep's data that have an alignment, beside what its rows say of the same chains.
  `make reproduce-table7 ROWS=all` runs this; ``alignments/scores.json`` in the sweep's directory keeps the scores.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import logit

from experiments import msa_pretraining
from proteinlm.config import DataConfig, FilesDataConfig, SyntheticDataConfig
from proteinlm.data import sources, synthetic
from proteinlm.data.alignments.reading import Alignment, read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.synthetic.families import generator_of, members, universe_of
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.inference.attention_contacts import SolvedChain
from proteinlm.inference.model import load
from proteinlm.inference.msa import MSAReader
from proteinlm.launch import entry
from proteinlm.models import potts
from proteinlm.records import contact_map, predictions
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.contact_map import SHORT
from proteinlm.records.results import Score
from proteinlm.records.run_directory import ALIGNMENTS, CONFIG, CONTACT_MAP, MSA_TRANSFORMER, PREDICTIONS
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_yaml
from proteinlm.tasks import contact
from proteinlm.tasks.contact import Contact
from proteinlm.tasks.metrics import ContactPrecision

COLUMNS = [f"precision_at_l{n}_separation_{least}" for least in (6, 24) for n in ("", "2", "5")]
FILE = "scores.json"
NEIGHBOURS = 0.25
"""The share of neighbouring pairs' scores in the method of that name; so it has been measured."""
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
    fitted = _remembering(pseudo_likelihood)
    methods: dict[str, Contacts] = {
        "potts": fitted,
        "mean field": mean_field,
        "separation alone": lambda aligned: -_separation(len(aligned.chain.letters)),
    }
    if options.model:
        methods["attention of the query"] = attention_of(options.model)
    if options.sweep:
        return _beside_rows(options, methods)
    methods["potts, neighbours"] = lambda aligned: potts.add_neighbours(
        torch.from_numpy(fitted(aligned)), NEIGHBOURS
    ).numpy()
    _add_reader(methods, options.msa_transformer)
    config = SyntheticDataConfig() if options.data == "synthetic" else FilesDataConfig(root=options.data)
    found = (aligned for _, aligned in chains(config, options.depth, ("train", "valid", "test")))
    samples = score(enumerate(found), methods)
    _print(scores := {name: _scores(of) for name, of in samples.items()})
    if options.output:
        _save(options.output, {"data": asdict(config), "depth": options.depth}, scores)
    return 0


def _remembering(contacts: Contacts) -> Contacts:
    """The same method, which computes the scores of a chain that is asked for twice in a row only once."""
    latest: list[tuple[AlignedChain, np.ndarray]] = []

    def of(aligned: AlignedChain) -> np.ndarray:
        if not latest or latest[0][0] is not aligned:
            latest[:] = [(aligned, contacts(aligned))]
        return latest[0][1]

    return of


def _add_reader(methods: dict[str, Contacts], directory: Path | None) -> MSAReader | None:
    """Add the MSA Transformer in a directory to the methods, if there is one."""
    if directory is None:
        return None
    reader = MSAReader(directory, torch.device("cpu"))
    methods["MSA Transformer"] = lambda aligned: reader.contacts(aligned.alignment)
    return reader


def _beside_rows(options: argparse.Namespace, methods: dict[str, Contacts]) -> int:
    """Score the test chains of a sweep that have an alignment, and its rows on the same chains."""
    directory: Path = options.sweep
    places = sorted(file.parent for file in directory.glob(f"*/contact/{PREDICTIONS}"))
    if not places:
        raise InputError(f"{directory}: no row in it has a result of contact")
    values = read_yaml(places[0] / CONFIG)["data"]
    config = (SyntheticDataConfig if values["name"] == "synthetic" else FilesDataConfig)(**values)
    weights: Path | None = options.msa_transformer
    if weights is None and isinstance(config, SyntheticDataConfig):
        weights = directory / ALIGNMENTS / MSA_TRANSFORMER
        msa_pretraining.train(config, weights, options.msa_steps)
    reader = _add_reader(methods, weights)
    file = directory / ALIGNMENTS / FILE
    asked = {"data": asdict(config), "depth": options.depth, "chains": options.chains}
    if reader:
        asked["msa_transformer"] = reader.settings["weights"]
    known = json.loads(file.read_text()) if file.is_file() else {"scores": {}}
    wanted = {*methods, *(place.parent.name for place in places)}
    if asked.items() <= known.items() and wanted <= known["scores"].keys():
        scores = {name: [Score.read(each) for each in found] for name, found in known["scores"].items()}
    else:
        of_chain: dict[int, AlignedChain] = {}
        for record, aligned in islice(chains(config, options.depth, ("test",)), options.chains):
            of_chain.setdefault(record, aligned)
        samples = score(of_chain.items(), methods)
        _draw(places, of_chain, directory / ALIGNMENTS, reader)
        for place in places:
            of = predictions.load(place)
            samples[place.parent.name] = {
                c: s.only(np.isin(s.record, [*of_chain])) for c in COLUMNS if (s := of["test", c])
            }
        scores = {name: _scores(of) for name, of in samples.items()}
        _save(file, asked, scores)
    print(f"\nContacts on the test chains that have an alignment, {scores['potts'][0].n} of them")
    _print(scores)
    return 0


def score(aligned: Iterable[tuple[int, AlignedChain]], methods: dict[str, Contacts]) -> dict[str, dict[str, Sample]]:
    """The samples behind each column of each method, on the same chains; prints each chain's and its processor time."""
    metrics = {name: ContactPrecision() for name in methods}
    for record, each in aligned:
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
    return {name: {column: metric.per_record()[column] for column in COLUMNS} for name, metric in metrics.items()}


def _draw(
    places: Sequence[Path], of_chain: Mapping[int, AlignedChain], directory: Path, reader: MSAReader | None
) -> None:
    """Save the maps of the chain that the rows have drawn, for the same figure, if it has an alignment."""
    drawn = next((contact_map.load(place) for place in places if (place / CONTACT_MAP).is_file()), None)
    if drawn is None or (aligned := of_chain.get(drawn.record)) is None or len(aligned.chain.letters) != drawn.length:
        return
    scores = pseudo_likelihood(aligned)
    first, second = np.triu_indices(drawn.length, SHORT)
    best = np.sort(scores[first, second])[::-1]
    middle = best[min(drawn.length, len(best) - 1)]  # as many pairs as residues are shown darker than half
    logits = ((scores - middle) / best.std()).astype(np.float32)
    directory.mkdir(exist_ok=True)
    contact_map.save(directory, replace(drawn, seed=0, logits=logits))
    if reader:
        (directory / MSA_TRANSFORMER).mkdir(exist_ok=True)
        probabilities = reader.contacts(aligned.alignment)
        logits = logit(probabilities.clip(1e-6, 1 - 1e-6)).astype(np.float32)
        contact_map.save(directory / MSA_TRANSFORMER, replace(drawn, seed=0, logits=logits))
    else:
        (directory / MSA_TRANSFORMER / CONTACT_MAP).unlink(missing_ok=True)  # of another table


def _scores(samples: Mapping[str, Sample]) -> list[Score]:
    return [Score("contact", "aligned", c, of.estimate(), *bootstrap(of), of.n) for c, of in samples.items()]


def _print(scores: Mapping[str, list[Score]]) -> None:
    """A line for each method: P@L, L/2 and L/5 of pairs at least 6 apart, then at least 24."""
    print(f"{'':38}{'P@L':18}{'L/2':18}{'L/5':18}{'P@L, 24 apart':18}{'L/2':18}L/5")
    for name, found in scores.items():
        cells = (f"{s.text()} ({s.low or 0:.2f}-{s.high or 0:.2f})" for s in found)
        print(f"{name:38}" + "".join(f"{cell:18}" for cell in cells).rstrip())


def _save(file: Path, settings: Mapping[str, object], scores: Mapping[str, list[Score]]) -> None:
    values = {name: [asdict(each) for each in found] for name, found in scores.items()}
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps({**settings, "scores": values}, indent=2) + "\n")


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
        chain, name = _solved(record), record["id"]
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
    known = [(number, _solved(record)) for split in splits for number, record in enumerate(source.records(split))]
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


def _solved(record: dict[str, Any]) -> SolvedChain:
    places = torch.from_numpy(contact.coordinates(record))
    letters = np.frombuffer(record["primary"].encode(), np.uint8)
    return SolvedChain(letters, contact.contacts(places).numpy(), contact.resolved(places).numpy())


def _separation(length: int) -> np.ndarray:
    place = np.arange(length, dtype=np.float32)
    return np.abs(place[:, None] - place)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.alignments", description="Contacts of alignments.")
    parser.add_argument("--data", default="synthetic", help="synthetic, or a directory with alignments/ in it")
    parser.add_argument("--depth", type=int, default=250, help="rows of a made-up alignment")
    parser.add_argument("--model", type=Path, help="weights whose attention is read as well")
    parser.add_argument("--msa-transformer", type=Path, help="an MSA Transformer imported by `proteinlm import msa`")
    parser.add_argument(
        "--msa-steps",
        type=int,
        default=msa_pretraining.STEPS,
        help="training steps of a sweep's own, without such weights",
    )
    parser.add_argument("--chains", type=int, help="chains at most, of a sweep; by default all")
    parser.add_argument("--sweep", type=Path, help="directory of a sweep, whose data and rows are taken")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
