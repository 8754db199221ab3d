"""Contacts from attention maps: no head is trained on the backbone, only which of its maps to read.

There are two readouts. Both read maps that are made symmetric and corrected for the average product (Dunn et al. 2008),
and both are fitted to a few proteins of known structure. One is a logistic regression over all heads (Rao et al. 2021,
with a quadratic instead of an absolute penalty), the other the unweighted mean of the best heads. Both are saved in one
file beside the weights that they belong to.

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
from proteinlm.models.attention import rotate_heads
from proteinlm.models.backbone import Block
from proteinlm.models.published import PostNormBlock
from proteinlm.records.contact_map import SHORT
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_json

FILE = "attention_contacts.json"
METHODS = ("regression", "best-heads")
PENALTY = 1e-3  # of the squared coefficients, beside the mean loss of a pair, on maps of unit deviation
FITTED_CHAINS = 20
"""The number of chains that a readout is fitted to, as in Rao et al. 2021."""
SHORTEST, LONGEST = 30, 300
"""The residues of such a chain: the maps of all its heads are in memory at once."""
MOST_HEADS = 20
SAMPLED_PAIRS = 5_000
"""The number of pairs without contact that the regression sees of each protein; contacts are one pair in forty."""


@dataclass(frozen=True)
class SolvedChain:
    """A protein of known structure."""

    letters: np.ndarray
    """(L,) uint8: ASCII."""
    contacts: np.ndarray
    """(L, L) bool."""
    resolved: np.ndarray
    """(L,) bool."""


@dataclass(frozen=True)
class Readout:
    """The readouts of contacts from the attention maps of one set of weights."""

    weights: str
    """The fingerprint of the weights."""
    coefficients: list[float]
    """The coefficient of each head, layer by layer."""
    intercept: float
    heads: list[int]
    """The best heads, best first."""
    proteins: int
    precision: dict[str, float]
    """By method, the precision of the L most confident pairs at least `SHORT` apart, on the proteins of the fit."""

    def probabilities(self, model: Model, letters: np.ndarray) -> Tensor:
        """The probability of contact of each pair by the regression, (L, L)."""
        layers = attention_maps(model, letters)
        coefficients = torch.tensor(self.coefficients).view(model.config.num_layers, -1).to(model.machine.device)
        terms = [torch.tensordot(part, layer, dims=1) for part, layer in zip(coefficients, layers, strict=True)]
        return (torch.stack(terms).sum(dim=0) + self.intercept).sigmoid()

    def mean_of_best(self, model: Model, letters: np.ndarray) -> Tensor:
        """The mean of the best heads' corrected maps, (L, L): a score, not a probability."""
        if not self.heads:
            raise InputError(f"{model.origin}: no best heads are known of these weights: fit a readout by --fit DATA")
        total = torch.zeros((), device=model.machine.device)
        for number, layer in enumerate(attention_maps(model, letters)):
            within = [head % len(layer) for head in self.heads if head // len(layer) == number]
            total = total + layer[within].sum(dim=0)
        return total / len(self.heads)


@torch.inference_mode()
def attention_maps(model: Model, letters: np.ndarray) -> list[Tensor]:
    """The corrected attention among the residues of one protein: for each layer (N, L, L) float32."""
    packed = model.machine.to_device(pack_letters([letters]))
    backbone = model.encoder
    x, where = backbone.embed(packed.tokens, packed.starts, packed.longest)
    residues, result = slice(1, len(packed.tokens)), []  # without what opens and closes the protein
    for block in backbone.blocks:
        assert isinstance(block, Block)
        attended = x if isinstance(block, PostNormBlock) else block.attention_norm(x)
        query, key, _ = rotate_heads(block.attention.project(attended), where.rotation)  # (T, N, D) each
        query, key = query.transpose(0, 1), key.transpose(0, 1)  # (N, T, D)
        attention = (query @ key.mT * model.config.head_dim**-0.5).softmax(dim=-1)  # (N, T, T)
        result.append(correct_average_product(attention[:, residues, residues]))
        x = block(x, where)
    return result


def correct_average_product(attention: Tensor) -> Tensor:
    """Apply the average product correction to maps (N, L, L), after adding their transposes.

    From each pair the product of the sums of its row and column over the sum of the map is subtracted.
    """
    symmetric = attention + attention.mT
    sums = symmetric.sum(dim=-1, keepdim=True)  # (N, L, 1)
    return symmetric - sums * sums.mT / sums.sum(dim=1, keepdim=True)


def fit_readout(model: Model, directory: Path, data: str) -> Readout:
    """Fit a readout to training chains of `data`, and save it beside the weights in `directory`."""
    readout = fit(model, training_chains(data, min(LONGEST, model.positions)))
    save(readout, directory)
    precision = ", ".join(f"{name} {value:.3f}" for name, value in readout.precision.items())
    print(f"fitted to {readout.proteins} proteins, on which P@L is: {precision}", file=sys.stderr)
    return readout


def fit(model: Model, proteins: list[SolvedChain]) -> Readout:
    """Fit both readouts to proteins of known structure; their maps are computed twice, to save memory."""
    draw = np.random.default_rng(0)
    sampled = []
    by_head = np.zeros(model.config.num_layers * model.config.num_heads)
    for protein in proteins:
        pairs = _pairs(model, protein)
        by_head += pairs.precision(pairs.maps) / len(proteins)
        sampled.append(pairs.sample(draw))
    parts = (np.concatenate(part) for part in zip(*sampled, strict=True))
    coefficients, intercept = fit_regression(*parts)
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
    """Save a readout beside the weights in `directory`."""
    write_text(directory / FILE, json.dumps(asdict(readout), indent=2) + "\n")


def load(model: Model, directory: Path) -> Readout:
    """The readout saved beside these weights, or else the regression that came with them.

    Raises `InputError` if there is neither, or what is saved belongs to other weights.
    """
    file = directory / FILE
    advice = "name proteins of known structure to fit one to: --fit DATA, or --fit synthetic"
    if not file.is_file() and model.contact_regression:
        coefficients, intercept = model.contact_regression
        return Readout(model.fingerprint, coefficients.tolist(), float(intercept), [], 0, {})
    if not file.is_file():
        raise InputError(f"{directory}: no readout of its attention maps yet; {advice}")
    try:
        readout = Readout(**read_json(file))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: damaged: {error}") from None
    if readout.weights != model.fingerprint:
        raise InputError(f"{file}: fitted for other weights; {advice}")
    return readout


def solved_chains(data: str, split: str) -> Iterator[SolvedChain]:
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
        yield SolvedChain(letters, contact.contacts(places).numpy(), contact.resolved(places).numpy())


def training_chains(data: str, longest: int) -> list[SolvedChain]:
    """The first `FITTED_CHAINS` training chains that have `SHORTEST` to `longest` residues and a contact."""

    def fits(protein: SolvedChain) -> bool:
        return SHORTEST <= len(protein.letters) <= longest and bool(np.triu(protein.contacts, SHORT).any())

    chains = list(islice(filter(fits, solved_chains(data, "train")), FITTED_CHAINS))
    if not chains:
        raise InputError(f"--fit {data}: no training chain of {SHORTEST} to {longest} residues with a contact")
    return chains


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
        """The share of contacts among the `length` highest of `scores` (P, S), for each column (S,)."""
        taken = min(self.length, len(scores))
        best = np.argpartition(-scores, taken - 1, axis=0)[:taken]
        return self.contacts[best].mean(axis=0)

    def sample(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw pairs for the regression: all contacts and `SAMPLED_PAIRS` others, which are weighted to stand for all.

        Returns maps (K, F), contacts (K,) bool and weights (K,) of the K pairs.
        """
        contacts, others = np.flatnonzero(self.contacts), np.flatnonzero(~self.contacts)
        some = draw.choice(others, min(SAMPLED_PAIRS, len(others)), replace=False)
        weights = np.repeat([1.0, len(others) / max(1, len(some))], [len(contacts), len(some)])
        chosen = np.concatenate([contacts, some])
        return self.maps[chosen], self.contacts[chosen], weights


def _pairs(model: Model, protein: SolvedChain) -> _Pairs:
    counted = np.triu(protein.resolved[:, None] & protein.resolved, SHORT)
    first, second = (torch.from_numpy(index) for index in np.nonzero(counted))
    values = [layer[:, first, second].cpu() for layer in attention_maps(model, protein.letters)]
    return _Pairs(torch.cat(values).T.contiguous().numpy(), protein.contacts[counted], int(protein.resolved.sum()))


def fit_regression(features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
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
    values = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    coefficients = values[:-1] / deviation
    return coefficients, float(values[-1] - coefficients @ mean)
