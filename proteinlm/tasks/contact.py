"""Which residues touch: C-alpha atoms less than 8 Å apart (paper section 3.2.3).

L residues of one protein, T tokens of all.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import LabelledTaskConfig, ModelConfig
from proteinlm.data.batches.labelled import LabelledBatch, LabelledProteins, Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.models.heads import PairHead, PairLinear, PairMLP, PairResidualNetwork
from proteinlm.models.packed import per_protein
from proteinlm.records import contact_map
from proteinlm.records.contact_map import SHORT, ContactMap
from proteinlm.tasks.labelled import Heads, LabelledTask
from proteinlm.tasks.metrics import ContactPrecision, RecordMetric

CONTACT_DISTANCE = 8.0  # Å
SAMPLE = 256
"""Proteins that the share of contacts is taken from."""
DRAWN = "test"
"""The split of which one protein's map is saved."""


class Drawn(NamedTuple):
    """The protein whose map is saved when it is scored."""

    metric: nn.Module
    """The metric of the protein's split."""
    record: int
    name: str
    seed: int
    directory: Path


@final
class Contact(LabelledTask):
    """Binary cross-entropy over pairs of resolved residues at least six apart; scored by precision (`ContactPrecision`).

    Every pair weighs the same, whatever protein it is from, as in ProteinLM.
    """

    dataset = "proteinnet"
    splits: ClassVar = {"train": 25299, "valid": 224, "test": 40}
    score = f"precision_at_l5_separation_{SHORT}"
    drawn: Drawn | None = None

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(coordinates, pairs, residues_at_origin, "residues at (0, 0, 0) are taken as unresolved")

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        return {
            "mlp": partial(PairMLP, model.hidden_size, model.dropout),
            "linear": partial(PairLinear, model.hidden_size),
            "residual": partial(PairResidualNetwork, model.hidden_size),
        }

    def metric(self) -> RecordMetric:
        return ContactPrecision()

    def prepare(self, training: LabelledProteins) -> None:
        assert isinstance(self.head, PairHead)
        self.head.expect(share_in_contact(training.targets[:SAMPLE]))

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        maps: list[Tensor] = self(batch.packed)
        losses = [map_loss(logits, places) for logits, places in zip(maps, places_of_residues(batch), strict=True)]
        return torch.stack(losses).sum()

    def update(self, metric: RecordMetric, output: list[Tensor], batch: LabelledBatch) -> None:
        proteins = zip(output, places_of_residues(batch), batch.records.tolist(), strict=True)
        for logits, places, record in proteins:
            touching, known = contacts(places), resolved(places)
            metric.update(logits, touching, known, record)
            if self.drawn and metric is self.drawn.metric and record == self.drawn.record:
                arrays = (each.cpu().numpy() for each in (logits.float(), touching, known))
                contact_map.save(self.drawn.directory, ContactMap(self.drawn.name, record, self.drawn.seed, *arrays))

    def draw(self, proteins: Mapping[str, LabelledProteins], seed: int, directory: Path | None) -> None:
        if directory and DRAWN in self.evaluations:
            place = contact_map.choose_chain(proteins[DRAWN].names, proteins[DRAWN].lengths)
            metric = self.metrics[self.evaluations.index(DRAWN)]
            record, name = int(proteins[DRAWN].records[place]), proteins[DRAWN].names[place]
            self.drawn = Drawn(metric, record, name, seed, directory)


def coordinates(record: Record) -> np.ndarray:
    """C-alpha of each residue in Å, (L, 3) float32; NaN where it is unresolved.

    A residue at (0, 0, 0) is unresolved whatever ``valid_mask`` says: ProteinNet and others write zeros where there is no
    atom, and residues that share one place would all be in contact.
    """
    length = len(record["primary"])
    places, valid = numbers(record, "tertiary", (length, 3)), numbers(record, "valid_mask", (length,)) > 0
    unknown = ~np.isfinite(places).all(axis=1) & valid
    if unknown.any():
        raise InputError(f"tertiary is not finite at residue {unknown.argmax() + 1}, which valid_mask calls resolved")
    return np.where((valid & places.any(axis=1))[:, None], places, np.nan).astype(np.float32)


def residues_at_origin(record: Record) -> int:
    """Number of residues that ``valid_mask`` calls resolved and that have no place but (0, 0, 0)."""
    valid = np.asarray(record["valid_mask"]) > 0
    return int((valid & ~np.asarray(record["tertiary"]).any(axis=1)).sum())


def pairs(target: np.ndarray) -> int:
    """Number of pairs of resolved residues that are far enough apart along the sequence."""
    position = np.flatnonzero(~np.isnan(target[:, 0]))
    return int(np.searchsorted(position, position - SHORT, side="right").sum())


def share_in_contact(targets: list[np.ndarray]) -> float:
    """Share of the pairs that count that are in contact; never quite none or all."""
    counted = sum(map(pairs, targets))
    touching = sum(int(contacts(torch.from_numpy(target)).triu(SHORT).sum()) for target in targets)
    return (touching + 1) / (counted + 2)


def places_of_residues(batch: LabelledBatch) -> list[Tensor]:
    """Coordinates (L, 3) of each protein's residues, without [CLS]."""
    return [places[1:] for places in per_protein(batch.targets, batch.packed.starts)]


def resolved(places: Tensor) -> Tensor:
    """Which residues have coordinates, (L,) bool."""
    return ~places.isnan().any(dim=-1)


def contacts(places: Tensor) -> Tensor:
    """Which residues are in contact, (L, L) bool; those without coordinates are not."""
    # not by matrix products, whose cancellation costs digits far from the origin
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist") < CONTACT_DISTANCE


def map_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of symmetric logits (L, L), summed over the pairs that count."""
    known = resolved(places)
    counted = (known[:, None] & known).triu(SHORT)  # (L, L)
    return F.binary_cross_entropy_with_logits(logits[counted], contacts(places)[counted].float(), reduction="sum")
