"""The order of the proteins in an epoch, and the micro-batches and optimiser steps that it is cut into.

Everything here is a pure function of (seed, epoch) and the lengths of the proteins. Numpy computes whole epochs at once.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from proteinlm.data.batches.masking import target_counts
from proteinlm.data.batches.packing import cut
from proteinlm.data.batches.randomness import Purpose, draws, key
from proteinlm.errors import InputError

_BLOCK = 2**20  # numbers hashed at once
_POCKET = 2**15  # numbers, about, that are sorted at once


class MicroBatch(NamedTuple):
    """The proteins that one process computes at once."""

    number: int
    """Counts from the start of training, over all epochs and processes."""
    epoch: int
    records: np.ndarray
    """(B,) record numbers, in order of length: neighbours of equal length share an attention call."""
    step_targets: int
    """Masked residues, or other targets, of the whole optimiser step that this belongs to."""


class Totals(NamedTuple):
    """The data that a run consumes."""

    tokens: int
    residues: int
    squares: int
    """Sum over the proteins of their squared lengths in tokens: the pairs that attention visits."""
    targets: int
    """Masked residues."""
    cropped: int
    """Proteins that gave a crop."""
    epochs: float


class Schedule:
    """Every micro-batch of a run, in order: the only answer to "what comes next", for any number of processes.

    An epoch visits each record once, in an order drawn from (seed, epoch), cut greedily into micro-batches of at most
    `budget` tokens. An optimiser step is `per_step` consecutive micro-batches and may reach into the next epoch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        longest: int,
        budget: int,
        per_step: int,
        seed: int,
        mask_percent: int = 0,
        targets: np.ndarray | None = None,
    ):
        """Each record has `mask_percent` of its residues as targets, or as many as `targets` (N,) says."""
        if not len(lengths):
            raise InputError("data: no proteins to train on")
        self._lengths, self.longest = lengths, longest
        self.budget, self.per_step, self.seed = budget, per_step, seed
        self.mask_percent, self._targets = mask_percent, targets
        self._counts: dict[int, int] = {}  # micro-batches of the epochs that have been planned
        self._latest: tuple[int, list[np.ndarray]] = (-1, [])
        most = min(int(lengths.max()), longest)
        if most + 1 > budget:
            raise InputError(
                f"train.micro_batch_tokens={budget} cannot hold the longest protein: {most} residues and [CLS]"
            )

    def epoch(self, number: int) -> list[np.ndarray]:
        """The micro-batches of one epoch, as record numbers; the latest is remembered, since planning takes seconds."""
        if self._latest[0] != number:
            order = random_order(len(self._lengths), key(Purpose.ORDER, self.seed, number)[0])
            self._latest = number, cut(order, self.lengths(order) + 1, self.budget)
            self._counts[number] = len(self._latest[1])
        return self._latest[1]

    def lengths(self, records: np.ndarray) -> np.ndarray:
        """Residues that `records` (N,) give, (N,): a crop's where a protein is too long."""
        return np.minimum(self._lengths[records], self.longest)

    def steps(self, first: int, last: int, share: slice = slice(None)) -> Iterator[list[MicroBatch]]:
        """The micro-batches of steps `first` to `last` (not included), a list for each step: the `share` of each."""
        step: list[tuple[int, int, np.ndarray]] = []
        for index, epoch, records in self._from(first * self.per_step):
            step.append((index, epoch, records))
            if len(step) == self.per_step:
                targets = self._targets_in(np.concatenate([records for _, _, records in step]))
                yield [
                    MicroBatch(index, epoch, self._by_length(records), targets) for index, epoch, records in step[share]
                ]
                step = []
                first += 1
                if first >= last:
                    return

    def totals(self, steps: int) -> Totals:
        """What the first `steps` steps consume."""
        left, epochs = steps * self.per_step, 0.0
        tokens = residues = squares = targets = cropped = 0
        for number in count():
            micro_batches = self.epoch(number)
            records = np.concatenate(micro_batches[:left])
            lengths = self.lengths(records).astype(np.int64)
            tokens += int((lengths + 1).sum())
            residues += int(lengths.sum())
            squares += int(((lengths + 1) ** 2).sum())
            targets += self._targets_in(records)
            cropped += int((self._lengths[records] > self.longest).sum())
            epochs += min(left, len(micro_batches)) / len(micro_batches)
            left -= len(micro_batches)
            if left <= 0:
                return Totals(tokens, residues, squares, targets, cropped, epochs)
        raise AssertionError

    def _by_length(self, records: np.ndarray) -> np.ndarray:
        return records[np.argsort(self.lengths(records), kind="stable")]

    def _targets_in(self, records: np.ndarray) -> int:
        if self._targets is not None:
            return int(self._targets[records].sum(dtype=np.int64))
        return int(target_counts(self.lengths(records), self.mask_percent).sum())

    def _from(self, index: int) -> Iterator[tuple[int, int, np.ndarray]]:
        begin = epoch = 0
        while epoch in self._counts and begin + self._counts[epoch] <= index:  # nothing of it is left
            begin += self._counts[epoch]
            epoch += 1
        while True:
            micro_batches = self.epoch(epoch)
            for offset in range(max(0, index - begin), len(micro_batches)):
                yield begin + offset, epoch, micro_batches[offset]
            begin += len(micro_batches)
            epoch += 1


def random_order(count: int, stream: np.uint64) -> np.ndarray:
    """The numbers 0 to `count` - 1, int32 while they fit, in the random order of a stream.

    Random bits and the number itself share a word, and the sorted words give the order. They are dealt into pockets by
    their first bits before, and a pocket that fits into the processor's cache is sorted at a time: each number takes as
    long among tens of millions as among few.
    """
    own = np.uint64(max(1, (count - 1).bit_length()))
    first = np.uint64(64 - min(16, (count // _POCKET).bit_length()))  # numpy sorts 16 bits in linear time
    pockets = 1 << (64 - int(first))
    words = np.empty(count, dtype=np.uint64)
    bounds = []  # of the pockets in each block
    for begin in range(0, count, _BLOCK):
        numbers = np.arange(begin, min(begin + _BLOCK, count), dtype=np.uint64)
        drawn = draws(stream, numbers) >> own << own | numbers
        pocket = (drawn >> first if pockets > 1 else np.zeros_like(drawn)).astype(np.uint16)
        words[begin : begin + _BLOCK] = drawn[np.argsort(pocket, kind="stable")]
        bounds.append(begin + np.append(0, np.bincount(pocket, minlength=pockets).cumsum()))
    order = np.empty(count, dtype=np.int32 if count < 2**31 else np.int64)
    done = 0
    for number in range(pockets):
        words_of_pocket = np.concatenate([words[ends[number] : ends[number + 1]] for ends in bounds])
        words_of_pocket.sort()
        order[done : done + len(words_of_pocket)] = words_of_pocket & ((np.uint64(1) << own) - np.uint64(1))
        done += len(words_of_pocket)
    return order
