"""Masked, packed batches for training and validation, prepared in this process or in workers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from proteinlm.data.batches.fixed_shapes import FixedShapes
from proteinlm.data.batches.masking import Masked, everything, mask, target_counts
from proteinlm.data.batches.packing import cut, pack
from proteinlm.data.batches.randomness import Purpose, key
from proteinlm.data.batches.schedule import MicroBatch, Schedule
from proteinlm.data.batches.workers import outlive_signals
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError

AnyBatch = TypeVar("AnyBatch")

PINNED_SEED = 0
"""Validation masks do not depend on a run's seed, so that runs can be compared."""


class MaskedBatch(NamedTuple):
    """A micro-batch, ready for the masked language model."""

    masked: Masked
    records: Tensor
    """(B,) int64: the record number of each protein."""
    seed: int
    """Of the dropout."""
    step_targets: int
    """Masked residues of the whole optimiser step, over all micro-batches and processes."""
    residues: int


class MaskedProteins(Dataset[MaskedBatch]):
    """Turns the plan of a micro-batch into its tokens; holds no state, so any process may do it.

    Unless residues are to be `hidden`, all are shown, and all are targets. With `shapes` the tokens are filled up.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        longest: int,
        mask_percent: int,
        seed: int,
        hidden: bool = True,
        shapes: FixedShapes | None = None,
    ) -> None:
        self.sequences, self.longest, self.mask_percent, self.seed = sequences, longest, mask_percent, seed
        self.hidden, self.shapes = hidden, shapes

    def __getitem__(self, plan: MicroBatch) -> MaskedBatch:
        number, epoch, records, step_targets = plan
        packed = pack(self.sequences, records, longest=self.longest, seed=self.seed, epoch=epoch)
        if self.hidden:
            masked = mask(packed, records, percent=self.mask_percent, seed=self.seed, epoch=epoch)
        else:
            masked = everything(packed)
        dropout = int(key(Purpose.DROPOUT, self.seed, epoch, number)[0] >> np.uint64(1))
        residues = len(packed.tokens) - packed.proteins
        if self.shapes:
            masked = self.shapes.fill(masked)
        return MaskedBatch(masked, torch.from_numpy(records), dropout, step_targets, residues)


class ShareOfSteps(Sampler[MicroBatch]):
    """The micro-batches of steps `first` to `last` that fall to one process: every `world`-th of each step."""

    def __init__(self, schedule: Schedule, first: int, last: int, rank: int, world: int) -> None:
        self.schedule, self.first, self.last, self.rank, self.world = schedule, first, last, rank, world

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in self.schedule.steps(self.first, self.last, slice(self.rank, None, self.world)):
            yield from step

    def __len__(self) -> int:
        return (self.last - self.first) * self.schedule.per_step // self.world


class Plans(Sampler[MicroBatch]):
    """Yields the given plans in their order."""

    def __init__(self, plans: Sequence[MicroBatch]) -> None:
        self.plans = plans

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)


def training_loader(
    proteins: MaskedProteins, share: ShareOfSteps, *, workers: int, pin_memory: bool
) -> DataLoader[MaskedBatch]:
    return loader(proteins, share, workers, pin_memory)


def validation_loader(
    proteins: MaskedProteins, *, budget: int, tokens: int, rank: int, world: int, workers: int, pin_memory: bool
) -> DataLoader[MaskedBatch]:
    """Batches over the first records that hold `tokens` tokens (0: all), each record in exactly one process's."""
    lengths = np.minimum(proteins.sequences.lengths(), proteins.longest)
    if tokens:
        lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths + 1), tokens, side="right")))]
    plans = [
        MicroBatch(index, 0, records, int(target_counts(lengths[records], proteins.mask_percent).sum()))
        for index, records in enumerate(pieces_by_length(lengths, budget, world))
    ]
    return loader(proteins, Plans(plans[rank::world]), workers, pin_memory)


def pieces_by_length(lengths: np.ndarray, budget: int, world: int) -> list[np.ndarray]:
    """All records in order of their `lengths` (N,), cut into micro-batches, of which each process gets every `world`-th.

    All processes get as many: those that divide the weights must take part in every forward pass.
    """
    order = np.argsort(lengths, kind="stable")
    pieces = cut(order, lengths[order] + 1, budget)
    if len(order) < world:
        raise InputError(f"data: {len(order)} proteins to score are fewer than strategy's {world} processes")
    while len(pieces) % world:
        largest = max(range(len(pieces)), key=lambda index: len(pieces[index]))
        if len(pieces[largest]) == 1:
            break
        pieces[largest : largest + 1] = np.array_split(pieces[largest], 2)
    spare = len(pieces) % world  # of single proteins, which cannot be split: the shortest share, two by two
    pieces[: 2 * spare] = [np.concatenate(pieces[first : first + 2]) for first in range(0, 2 * spare, 2)]
    return pieces


def loader(
    proteins: Dataset[AnyBatch], sampler: Sampler[MicroBatch], workers: int, pin_memory: bool
) -> DataLoader[AnyBatch]:
    """Batches made of the plans that `sampler` gives, in this process or in `workers`."""
    return DataLoader(
        proteins,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else starting the workers would draw from the global stream
        prefetch_factor=4 if workers else None,
        worker_init_fn=outlive_signals,
    )
