"""Proteins with labels, and the packed batches made of them: shuffled by (seed, epoch) to train, by length to score.

T tokens of packed proteins, B proteins, L residues of one, N records of a split.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from proteinlm import vocabulary
from proteinlm.data.batches.language_model import Plans, loader, pieces_by_length
from proteinlm.data.batches.packing import Packed, pack_letters
from proteinlm.data.batches.randomness import Purpose, key
from proteinlm.data.batches.schedule import MicroBatch
from proteinlm.errors import InputError

_log = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""One protein by TAPE's field names."""


class LabelledBatch(NamedTuple):
    """A micro-batch, ready for any labelled task."""

    packed: Packed
    targets: Tensor
    """(B,) of proteins, or (T, ...) of tokens: then -1 or NaN at [CLS], as at a residue without a label."""
    records: Tensor
    """(B,) int64: the record number of each protein."""
    seed: int
    """Of the dropout."""
    step_targets: int
    """Terms of the loss of the whole optimiser step, over all micro-batches and processes."""
    residues: int


class Labels(NamedTuple):
    """The way in which a task reads its records."""

    target: Callable[[Record], np.ndarray]
    """() of the protein, or (L, ...) of its residues; `InputError` without the place, which `read` adds."""
    terms: Callable[[np.ndarray], int]
    """Number of terms that a target adds to the loss."""
    disregarded: Callable[[Record], int] | None = None
    """How many labels of a record are not believed, after `target` has accepted it."""
    why: str = ""
    """What `disregarded` counts, and what is done about it, for a warning."""


@dataclass(frozen=True)
class LabelledProteins:
    """One split in memory."""

    letters: list[np.ndarray]
    """ASCII letters (L,) uint8 of each protein."""
    targets: list[np.ndarray]
    terms: np.ndarray
    """(N,) int64: how many terms each protein adds to the loss."""
    records: np.ndarray
    """(N,) int64: the record number of each protein in its file."""
    names: tuple[str, ...] = ()
    """The identifier of each protein, empty where its record has none; or nothing at all."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """Residues per protein, (N,) int32."""
        return np.array([len(protein) for protein in self.letters], dtype=np.int32)

    def labelled(self) -> "LabelledProteins":
        """The proteins that add at least one term to the loss."""
        return self.take(np.flatnonzero(self.terms))

    def at_most(self, number: int) -> "LabelledProteins":
        """At most `number` proteins, evenly spaced; all of them for 0."""
        have = len(self.letters)
        return self if number in (0, have) or number > have else self.take(np.arange(number) * have // number)

    def take(self, kept: np.ndarray) -> "LabelledProteins":
        """The proteins at these places (N',)."""
        letters, targets = ([each[place] for place in kept.tolist()] for each in (self.letters, self.targets))
        names = tuple(self.names[place] for place in kept.tolist()) if self.names else ()
        return LabelledProteins(letters, targets, self.terms[kept], self.records[kept], names)


@final
class LabelledBatches(Dataset[LabelledBatch]):
    """Turns the plan of a micro-batch into its tokens and targets; holds no state, so any process may do it."""

    def __init__(self, proteins: LabelledProteins, seed: int) -> None:
        self.proteins, self.seed = proteins, seed

    def __getitem__(self, plan: MicroBatch) -> LabelledBatch:
        number, epoch, places, step_targets = plan
        packed = pack_letters([self.proteins.letters[place] for place in places.tolist()])
        targets = pack_targets([self.proteins.targets[place] for place in places.tolist()])
        records = torch.from_numpy(self.proteins.records[places])
        dropout = int(key(Purpose.DROPOUT, self.seed, epoch, number)[0] >> np.uint64(1))
        residues = len(packed.tokens) - packed.proteins
        return LabelledBatch(packed, targets, records, dropout, step_targets, residues)


def read(records: Iterable[Record], labels: Labels, *, origin: str, longest: int) -> LabelledProteins:
    """The proteins of a split, of at most `longest` residues; `InputError` naming `origin`, record and field.

    Labels that are not believed are counted in one warning.
    """
    letters, targets, terms, names = [], [], [], []
    disregarded = affected = 0
    for number, record in enumerate(records):
        try:
            letters.append(_letters(record, longest))
            targets.append(labels.target(record))
        except InputError as error:
            identifier = f" ({record['id']})" if record.get("id") is not None else ""
            raise InputError(f"{origin}, record {number}{identifier}: {error}") from None
        terms.append(labels.terms(targets[-1]))
        names.append(str(record.get("id") or ""))
        count = labels.disregarded(record) if labels.disregarded else 0
        disregarded, affected = disregarded + count, affected + bool(count)
    if not letters:
        raise InputError(f"{origin}: no proteins in it")
    if disregarded:
        _log.warning("%s: %s %s (in %s proteins)", origin, f"{disregarded:,}", labels.why, f"{affected:,}")
    return LabelledProteins(letters, targets, np.array(terms, dtype=np.int64), np.arange(len(letters)), tuple(names))


def _letters(record: Record, longest: int) -> np.ndarray:
    """ASCII letters (L,) uint8 of a protein."""
    primary = record.get("primary")
    if not isinstance(primary, str) or not primary:
        raise InputError("no primary sequence")
    vocabulary.encode(primary.replace(vocabulary.UNKNOWN_LETTER, "X"))  # whoever read it has decided about [UNK]
    if len(primary) > longest:
        raise InputError(
            f"primary has {len(primary)} residues, more than the {longest} that the model has positions for: "
            "start from a model of larger max_positions, or take the protein out of the file"
        )
    return np.frombuffer(primary.encode(), dtype=np.uint8)


def numbers(record: Record, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The field `name` as an array, which must be there and have this shape."""
    if record.get(name) is None:
        raise InputError(f"no {name}")
    array = np.asarray(record[name])
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is not numbers")
    if shape == () and array.size == 1:  # TAPE has targets both as numbers and as arrays of one
        array = array.reshape(())
    if array.shape != shape:
        fitting = f" for {shape[0]} residues" if shape else ""
        raise InputError(f"{name} has shape {array.shape}, not {shape}{fitting}")
    return array


def pack_targets(targets: list[np.ndarray]) -> Tensor:
    """Join the targets of proteins to (B,), or those of residues to (T, ...) with -1 or NaN at each [CLS]."""
    if not targets[0].ndim:
        return torch.from_numpy(np.stack(targets))
    nothing = np.full_like(targets[0][:1], np.nan if targets[0].dtype.kind == "f" else -1)
    return torch.from_numpy(np.concatenate([part for target in targets for part in (nothing, target)]))


def scoring_loader(
    proteins: LabelledProteins, *, budget: int, rank: int, world: int, workers: int, pin_memory: bool
) -> DataLoader[LabelledBatch]:
    """Batches of about `budget` tokens over all proteins, each in exactly one process's."""
    pieces = pieces_by_length(proteins.lengths, budget, world)
    plans = [
        MicroBatch(number, 0, records, int(proteins.terms[records].sum())) for number, records in enumerate(pieces)
    ]
    return loader(LabelledBatches(proteins, seed=0), Plans(plans[rank::world]), workers, pin_memory)
