"""Scores a model's attention as a predictor of contacts: its readouts on test chains, beside the separation alone."""

from collections.abc import Iterator
from pathlib import Path

import torch

from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.inference.attention_contacts import Readout
from proteinlm.inference.model import Model, check_length
from proteinlm.records.bootstrap import Sample, bootstrap, paired_bootstrap
from proteinlm.tasks.metrics import ContactPrecision

SCORE = "precision_at_l_separation_24"
BASELINE = "separation"


def lines(model: Model, directory: Path, data: str) -> Iterator[str]:
    """One line for each readout and for the baseline; the readouts are fitted first if none is saved."""
    try:
        readout = attention_contacts.load(model, directory)
    except InputError:
        readout = attention_contacts.fit_readout(model, directory, data)
    results = samples(model, readout, data)
    for name, sample in results.items():
        low, high = bootstrap(sample)
        line = f"{name}  P@L {sample.estimate():.3f} ({low:.3f} to {high:.3f}) at separation >= 24, {sample.n} chains"
        if name != BASELINE:
            gain = paired_bootstrap(sample, results[BASELINE])
            line += f"; {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) over separation alone"
        yield line


def samples(model: Model, readout: Readout, data: str) -> dict[str, Sample]:
    """The precision on each test chain of the nearest pairs, the regression, and the mean of the best heads."""
    metrics = {name: ContactPrecision() for name in (BASELINE, *attention_contacts.METHODS)}
    for record, chain in enumerate(attention_contacts.solved_chains(data, "test")):
        check_length(len(chain.letters), model.longest)
        position = torch.arange(len(chain.letters), dtype=torch.float32)
        maps = {
            BASELINE: -(position[:, None] - position).abs(),
            "regression": readout.probabilities(model, chain.letters).cpu(),
            "best-heads": readout.mean_of_best(model, chain.letters).cpu(),
        }
        for name, scores in maps.items():
            metrics[name].update(scores, torch.from_numpy(chain.contacts), torch.from_numpy(chain.resolved), record)
    return {name: metric.per_record()[SCORE] for name, metric in metrics.items()}
