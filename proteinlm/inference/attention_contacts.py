"""Contacts from attention maps: no head is trained on the backbone, only which of its maps to read.

Two readouts, both of maps made symmetric and corrected for the average product (Dunn et al. 2008), and both settled by
a few proteins of known structure: a logistic regression over all heads (Rao et al. 2021, with a quadratic instead of an
absolute penalty), and the unweighted mean of the best heads. They are kept beside the weights that they belong to.

L residues of one protein, N heads of a layer, F heads of all layers, P pairs, S scores.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from proteinlm.data.batches.packing import pack_letters
from proteinlm.errors import InputError
from proteinlm.inference.model import Model
from proteinlm.models.attention import turned
from proteinlm.models.backbone import Block
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_json

FILE = "attention_contacts.json"
METHODS = ("regression", "best-heads")
SEPARATION = 6
"""Least distance along the sequence of the pairs that are learnt from: nearer residues always touch."""
PENALTY = 1e-3  # of the squared coefficients, beside the mean loss of a pair, on maps of unit deviation
FITTED = 20
"""Chains that a readout is settled by, as in Rao et al. 2021."""
SHORTEST, LONGEST = 30, 300
"""Residues of these: the maps of all heads are in memory at once."""
MOST_HEADS = 20
OTHERS = 5_000
"""Pairs of a protein that are no contacts, for the regression to learn from: contacts are one pair in forty."""


@dataclass(frozen=True)
class Solved:
    """A protein of known structure."""

    letters: np.ndarray
    """(L,) uint8: ASCII."""
    contacts: np.ndarray
    """(L, L) bool."""
    resolved: np.ndarray
    """(L,) bool."""


@dataclass(frozen=True)
class Readout:
    """How contacts are read off the maps of one set of weights."""

    weights: str
    """Fingerprint."""
    coefficients: list[float]
    """Of each head, layer by layer."""
    intercept: float
    heads: list[int]
    """The best, first to last."""
    proteins: int
    precision: dict[str, float]
    """Of the L most confident pairs at least `SEPARATION` apart, by method: on the proteins that it was fitted to."""

    def probabilities(self, model: Model, letters: np.ndarray) -> Tensor:
        """Of contact by the regression, (L, L)."""
        layers = maps(model, letters)
        coefficients = torch.tensor(self.coefficients).view(model.config.num_layers, -1).to(model.machine.device)
        terms = [torch.tensordot(part, layer, dims=1) for part, layer in zip(coefficients, layers, strict=True)]
        return (torch.stack(terms).sum(dim=0) + self.intercept).sigmoid()

    def mean_of_best(self, model: Model, letters: np.ndarray) -> Tensor:
        """Of the best heads' corrected maps, (L, L): a score, not a probability."""
        total = torch.zeros((), device=model.machine.device)
        for number, layer in enumerate(maps(model, letters)):
            within = [head % len(layer) for head in self.heads if head // len(layer) == number]
            total = total + layer[within].sum(dim=0)
        return total / len(self.heads)


@torch.inference_mode()
def maps(model: Model, letters: np.ndarray) -> list[Tensor]:
    """Attention among the residues of one protein, symmetric and corrected, (N, L, L) float32 of each layer."""
    packed = model.machine.moved(pack_letters([letters]))
    backbone = model.own_backbone
    x, where = backbone.embed(packed.tokens, packed.starts, packed.longest)
    result = []
    for block in backbone.blocks:
        assert isinstance(block, Block)
        query, key, _ = turned(block.attention.project(block.attention_norm(x)), where.rotation)  # (T, N, D) each
        query, key = query.transpose(0, 1), key.transpose(0, 1)  # (N, T, D)
        attention = (query @ key.mT * model.config.head_dim**-0.5).softmax(dim=-1)  # (N, T, T)
        result.append(corrected(attention[:, 1:, 1:]))
        x = block(x, where)
    return result


def corrected(attention: Tensor) -> Tensor:
    """Maps (N, L, L) plus their transposes, less the product of each residue's sums over the whole's."""
    symmetric = attention + attention.mT
    sums = symmetric.sum(dim=-1, keepdim=True)  # (N, L, 1)
    return symmetric - sums * sums.mT / sums.sum(dim=1, keepdim=True)


def settle(model: Model, directory: Path, data: str) -> Readout:
    """Fit a readout to training chains of `data`, and keep it beside the weights in `directory`."""
    readout = fit(model, to_fit(data, min(LONGEST, model.longest)))
    save(readout, directory)
    precision = ", ".join(f"{name} {value:.3f}" for name, value in readout.precision.items())
    print(f"settled by {readout.proteins} proteins, on which P@L is: {precision}", file=sys.stderr)
    return readout


def fit(model: Model, proteins: list[Solved]) -> Readout:
    """Settle both readouts by proteins of known structure; their maps are computed twice, never kept."""
    draw = np.random.default_rng(0)
    sampled = []
    by_head = np.zeros(model.config.num_layers * model.config.num_heads)
    for protein in proteins:
        pairs = _pairs(model, protein)
        by_head += pairs.precision(pairs.maps) / len(proteins)
        sampled.append(pairs.sampled(draw))
    parts = (np.concatenate(part) for part in zip(*sampled, strict=True))
    coefficients, intercept = _regression(*parts)
    order = np.argsort(-by_head, kind="stable")[:MOST_HEADS]
    regression, means = 0.0, np.zeros(len(order))
    for protein in proteins:
        pairs = _pairs(model, protein)
        regression += pairs.precision(pairs.maps @ coefficients[:, None])[0] / len(proteins)
        means += pairs.precision(pairs.maps[:, order].cumsum(axis=1)) / len(proteins)
    best = int(np.argmax(means))
    return Readout(
        weights=model.fingerprint,
        coefficients=coefficients.tolist(),
        intercept=intercept,
        heads=order[: best + 1].tolist(),
        proteins=len(proteins),
        precision={"regression": regression, "best-heads": float(means[best])},
    )


def save(readout: Readout, directory: Path) -> None:
    """Keep a readout beside the weights in `directory`."""
    write_text(directory / FILE, json.dumps(asdict(readout), indent=2) + "\n")


def load(model: Model, directory: Path) -> Readout:
    """The readout that was kept beside these weights; `InputError` if there is none, or of other weights."""
    file = directory / FILE
    advice = "name proteins of known structure to settle one by: --fit DATA, or --fit synthetic"
    if not file.is_file():
        raise InputError(f"{directory}: no readout of its attention maps yet; {advice}")
    try:
        readout = Readout(**read_json(file))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: damaged: {error}") from None
    if readout.weights != model.fingerprint:
        raise InputError(f"{file}: settled for other weights; {advice}")
    return readout


def solved(data: str, split: str) -> Iterator[Solved]:
    """The chains of a split of ProteinNet; `data` is a directory as for ``data=files``, or ``synthetic``."""
    from proteinlm.config import FilesDataConfig, SyntheticDataConfig
    from proteinlm.data import sources
    from proteinlm.tasks import contact

    config = SyntheticDataConfig() if data == "synthetic" else FilesDataConfig(root=data)
    source = sources.labelled(config, contact.Contact.dataset, (split,))
    for number, record in enumerate(source.records(split)):
        try:
            places = torch.from_numpy(contact.coordinates(record))
        except InputError as error:
            raise InputError(f"{source.origins[split]}, record {number}: {error}") from None
        letters = np.frombuffer(record["primary"].encode(), np.uint8)
        yield Solved(letters, contact.contacts(places).numpy(), contact.resolved(places).numpy())


def to_fit(data: str, longest: int) -> list[Solved]:
    """The first `FITTED` training chains that have `SHORTEST` to `longest` residues and a contact."""

    def fits(protein: Solved) -> bool:
        return SHORTEST <= len(protein.letters) <= longest and bool(np.triu(protein.contacts, SEPARATION).any())

    found = list(islice(filter(fits, solved(data, "train")), FITTED))
    if not found:
        raise InputError(f"--fit {data}: no training chain of {SHORTEST} to {longest} residues with a contact")
    return found


@dataclass(frozen=True)
class _Pairs:
    """The resolved pairs of a protein that are far enough apart."""

    maps: np.ndarray
    """(P, F) float32."""
    contacts: np.ndarray
    """(P,) bool."""
    length: int
    """Resolved residues."""

    def precision(self, scores: np.ndarray) -> np.ndarray:
        """Share of contacts among the `length` highest of `scores` (P, S), by column."""
        taken = min(self.length, len(scores))
        best = np.argpartition(-scores, taken - 1, axis=0)[:taken]
        return self.contacts[best].mean(axis=0)

    def sampled(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Maps, contacts and weights of all contacts and of some other pairs, which stand for all of them."""
        contacts, others = np.flatnonzero(self.contacts), np.flatnonzero(~self.contacts)
        some = draw.choice(others, min(OTHERS, len(others)), replace=False)
        weights = np.repeat([1.0, len(others) / max(1, len(some))], [len(contacts), len(some)])
        chosen = np.concatenate([contacts, some])
        return self.maps[chosen], self.contacts[chosen], weights


def _pairs(model: Model, protein: Solved) -> _Pairs:
    counted = np.triu(protein.resolved[:, None] & protein.resolved, SEPARATION)
    first, second = (torch.from_numpy(index) for index in np.nonzero(counted))
    values = [layer[:, first, second].cpu() for layer in maps(model, protein.letters)]
    return _Pairs(torch.cat(values).T.contiguous().numpy(), protein.contacts[counted], int(protein.resolved.sum()))


def _regression(features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (F,) and intercept of the penalised logistic regression of `labels` (P,) on `features` (P, F)."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1.0
    x, sign, share = (
        ((features - mean) / deviation).astype(np.float32),
        np.where(labels, 1.0, -1.0),
        weights / weights.sum(),
    )

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ values[:-1].astype(np.float32) + values[-1])
        slope = -sign * share * expit(-margin)
        gradient = np.append(x.T @ slope.astype(np.float32) + 2 * PENALTY * values[:-1], slope.sum())
        return share @ np.logaddexp(0, -margin) + PENALTY * (values[:-1] @ values[:-1]), gradient

    expected = share[labels].sum()
    start = np.append(np.zeros(x.shape[1]), np.log(expected / (1 - expected)))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    coefficients = found[:-1] / deviation
    return coefficients, float(found[-1] - coefficients @ mean)
