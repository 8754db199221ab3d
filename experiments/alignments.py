"""Contacts that are read off alignments, on the chains that have one: ``python -m experiments.alignments --data synthetic``.

Every method is scored on the same chains, beside the separation along the sequence alone; `--model` adds what a language
model's attention says of the query, `--neural-potts` what a neural Potts model says of it, and `--msa-transformer` what an
imported MSA Transformer says of the alignment. A sweep on the embedded universe trains small ones of these where no weights
are given (`experiments.msa_pretraining`, `experiments.neural_potts`), the second over the backbone of its row with the best
perplexity. These chains are a set of their own: their scores do not belong into a column with those of a whole test set.

- ``--data synthetic``: the test chains of the embedded universe, each with made-up relatives of its family
- ``--data DIR``: the alignments in its ``alignments/`` whose query is part of a chain of known structure in it
- ``--sweep DIR``: the test chains of a sweep's data that have an alignment, beside what its rows say of the same chains.
  `make reproduce-table7 ROWS=all` runs this; ``alignments/scores.json`` in the sweep's directory keeps the scores.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import islice
from math import isfinite
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit

from experiments import msa_pretraining, neural_potts
from experiments.aligned_chains import AlignedChain, chains, solved
from experiments.table7.rows import PRETRAIN, Row, collect
from proteinlm.config import FilesDataConfig, SyntheticDataConfig
from proteinlm.data import synthetic
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.inference.attention_contacts import FITTED_CHAINS
from proteinlm.inference.model import Model, load
from proteinlm.inference.msa import MSAReader
from proteinlm.inference.neural_potts import potts_of
from proteinlm.launch import entry
from proteinlm.models import potts
from proteinlm.models.contact_evidence import add_evidence
from proteinlm.records import contact_map, predictions
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.contact_map import SHORT
from proteinlm.records.results import Score
from proteinlm.records.run_directory import (
    ALIGNMENTS,
    CONFIG,
    CONTACT_MAP,
    MODEL,
    MSA_TRANSFORMER,
    NEURAL_POTTS,
    PREDICTIONS,
    WEIGHTS,
)
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_yaml
from proteinlm.tasks.metrics import ContactPrecision

COLUMNS = [f"precision_at_l{n}_separation_{least}" for least in (6, 24) for n in ("", "2", "5")]
FILE = "scores.json"
PSEUDOCOUNT = 0.5
"""Of the mean field: half of the counts are even (Morcos et al. 2011)."""


Contacts = Callable[[AlignedChain], np.ndarray]
"""From a chain to scores (L, L) of its pairs."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    fitted = _remembering(pseudo_likelihood)
    methods: dict[str, Contacts] = {
        "potts": fitted,
        "potts, evidence": lambda aligned: with_evidence(aligned, fitted(aligned)),
        "mean field": mean_field,
        "separation alone": lambda aligned: -_separation(len(aligned.chain.letters)),
    }
    if options.model:
        methods["attention of the query"] = attention_of(options.model)
    if options.sweep:
        return _beside_rows(options, methods)
    _add_reader(methods, options.msa_transformer)
    if options.neural_potts:
        _add_neural_potts(methods, options.neural_potts)
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


def _add_neural_potts(methods: dict[str, Contacts], directory: Path) -> Contacts:
    """Add the neural Potts model in a directory to the methods, and its untrained control; returns the first."""
    for name, place in (("neural Potts", directory), ("neural Potts, untrained", directory / neural_potts.UNTRAINED)):
        methods[name] = partial(_couplings_of_query, load(place, device="cpu", precision="fp32"))
    return methods["neural Potts"]


def _couplings_of_query(model: Model, aligned: AlignedChain) -> np.ndarray:
    return potts_of(model, aligned.chain.letters).contacts().numpy()


def _best_backbone(directory: Path) -> Row | None:
    """The row of a sweep with the best perplexity on validation proteins, of those whose attention can be read."""
    found = []
    for row in collect(directory):
        perplexity = row.perplexity("valid")
        weights = row.directory / PRETRAIN / MODEL / WEIGHTS
        if perplexity and isfinite(perplexity.value) and not row.baseline and weights.is_file():
            found.append((perplexity.value, row))
    return min(found, key=itemgetter(0))[1] if found else None


def _beside_rows(options: argparse.Namespace, methods: dict[str, Contacts]) -> int:
    """Score the test chains of a sweep that have an alignment, and its rows on the same chains."""
    directory: Path = options.sweep
    places = sorted(file.parent for file in directory.glob(f"*/contact/{PREDICTIONS}"))
    if not places:
        raise InputError(f"{directory}: no row in it has a result of contact")
    values = read_yaml(places[0] / CONFIG)["data"]
    config = (SyntheticDataConfig if values["name"] == "synthetic" else FilesDataConfig)(**values)
    file = directory / ALIGNMENTS / FILE
    asked: dict[str, object] = {"data": asdict(config), "depth": options.depth, "chains": options.chains}
    drawn = {"": methods["potts"]}
    reads: Path | None = options.msa_transformer
    if isinstance(config, SyntheticDataConfig):
        asked |= _add_trained(config, directory, options.steps, methods, drawn)
        if reads is None:
            reads = directory / ALIGNMENTS / MSA_TRANSFORMER
            msa_pretraining.train(config, reads, options.steps or msa_pretraining.STEPS)
    if reader := _add_reader(methods, reads):
        asked["msa_transformer"] = reader.settings["weights"]
        drawn[MSA_TRANSFORMER] = methods["MSA Transformer"]
    known = json.loads(file.read_text()) if file.is_file() else {"scores": {}}
    wanted = {*methods, *(place.parent.name for place in places)}
    if asked.items() <= known.items() and wanted <= known["scores"].keys():
        scores = {name: [Score.read(each) for each in found] for name, found in known["scores"].items()}
    else:
        of_chain: dict[int, AlignedChain] = {}
        for record, aligned in islice(chains(config, options.depth, ("test",)), options.chains):
            of_chain.setdefault(record, aligned)
        samples = score(of_chain.items(), methods)
        _draw(places, of_chain, directory / ALIGNMENTS, drawn)
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


def _add_trained(
    config: SyntheticDataConfig,
    directory: Path,
    steps: int | None,
    methods: dict[str, Contacts],
    drawn: dict[str, Contacts],
) -> dict[str, object]:
    """Add a neural Potts model that is trained over a row's backbone, and that backbone's attention, to the methods.

    The first is also `drawn`. Returns what they are made of.
    """
    row = _best_backbone(directory)
    place = directory / ALIGNMENTS / NEURAL_POTTS
    start = row.directory / PRETRAIN / MODEL if row else None
    trained = neural_potts.train(config, place, steps or neural_potts.STEPS, start)
    drawn[NEURAL_POTTS] = _add_neural_potts(methods, place)
    if start:
        methods["attention of its backbone"] = _attention_fitted(load(start, device="cpu", precision="fp32"), config)
    return {"neural_potts": trained.fingerprint, "backbone": row.name if row else None}


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
            print(f"  {name:26}" + " ".join(f"{value:.3f}" for value in values) + f"  {seconds:6.2f} s", flush=True)
    return {name: {column: metric.per_record()[column] for column in COLUMNS} for name, metric in metrics.items()}


def _draw(
    places: Sequence[Path], of_chain: Mapping[int, AlignedChain], directory: Path, methods: Mapping[str, Contacts]
) -> None:
    """Save the maps of the chain that the rows have drawn, for the same figure, if it has an alignment.

    Those of `methods` are saved in folders of `directory`, by their names.
    """
    for name in ("", MSA_TRANSFORMER, NEURAL_POTTS):
        (directory / name / CONTACT_MAP).unlink(missing_ok=True)  # of another table
    drawn = next((contact_map.load(place) for place in places if (place / CONTACT_MAP).is_file()), None)
    if drawn is None or (aligned := of_chain.get(drawn.record)) is None or len(aligned.chain.letters) != drawn.length:
        return
    first, second = np.triu_indices(drawn.length, SHORT)
    for name, contacts in methods.items():
        scores = contacts(aligned)
        if name == MSA_TRANSFORMER:
            logits = logit(scores.clip(1e-6, 1 - 1e-6))
        else:  # no probabilities: as many pairs as residues are shown darker than half
            best = np.sort(scores[first, second])[::-1]
            logits = (scores - best[min(drawn.length, len(best) - 1)]) / best.std()
        (directory / name).mkdir(exist_ok=True, parents=True)
        contact_map.save(directory / name, replace(drawn, seed=0, logits=logits.astype(np.float32)))


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


def with_evidence(aligned: AlignedChain, scores: np.ndarray) -> np.ndarray:
    """Scores (L, L) of a Potts model with what `contacts` adds to them."""
    letters = aligned.alignment.letters
    weights = torch.from_numpy(sequence_weights(letters)).float()
    return add_evidence(torch.from_numpy(scores), torch.from_numpy(potts.states_of(letters)), weights).numpy()


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


def _attention_fitted(model: Model, config: SyntheticDataConfig) -> Contacts:
    """Contacts in a language model's attention, by a readout that is fitted to training chains when it is first needed."""

    @cache
    def readout() -> attention_contacts.Readout:
        solved_chains = (solved(record) for record in synthetic.labelled(config, "proteinnet", "train"))
        return attention_contacts.fit(model, [*islice(solved_chains, FITTED_CHAINS)])

    return lambda aligned: readout().probabilities(model, aligned.chain.letters).numpy()


def _separation(length: int) -> np.ndarray:
    place = np.arange(length, dtype=np.float32)
    return np.abs(place[:, None] - place)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.alignments", description="Contacts of alignments.")
    parser.add_argument("--data", default="synthetic", help="synthetic, or a directory with alignments/ in it")
    parser.add_argument("--depth", type=int, default=250, help="rows of a made-up alignment")
    parser.add_argument("--model", type=Path, help="weights whose attention is read as well")
    parser.add_argument("--msa-transformer", type=Path, help="an MSA Transformer imported by `proteinlm import msa`")
    parser.add_argument("--neural-potts", type=Path, help="a model of `experiments.neural_potts`")
    parser.add_argument("--steps", type=int, help="training steps of what a sweep trains, instead of the usual")
    parser.add_argument("--chains", type=int, help="chains at most, of a sweep; by default all")
    parser.add_argument("--sweep", type=Path, help="directory of a sweep, whose data and rows are taken")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
