"""The splits of a downstream task, read when they are asked for, and the batches that a Trainer gets of them."""

import sys
from functools import cached_property

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from proteinlm import tasks
from proteinlm.config import CustomTaskConfig, FilesDataConfig, FinetuneConfig, ModelConfig
from proteinlm.data import csv_labels, sources
from proteinlm.data.batches import labelled
from proteinlm.data.batches.labelled import LabelledBatch, LabelledBatches, LabelledProteins, Record, numbers
from proteinlm.data.batches.language_model import ShareOfSteps, loader
from proteinlm.data.batches.schedule import Schedule
from proteinlm.errors import InputError
from proteinlm.tasks.labelled import LabelledTask
from proteinlm.training.trainer import next_validation


class Splits:
    """The proteins of a task, for a model of some shape."""

    def __init__(self, config: FinetuneConfig, shape: ModelConfig) -> None:
        self.config, self.shape, self.longest = config, shape, shape.max_positions - 1
        self.resolved_task = config.task
        """The task, with what only its data can tell."""
        if isinstance(config.task, CustomTaskConfig):
            self.source, self.resolved_task = csv_labels.open_labels(config.data, config.task)
        self.task = tasks.module_of(self.resolved_task)
        self.task.choose_head(self.resolved_task, shape)  # a mistake there should not wait for the data
        if not isinstance(config.task, CustomTaskConfig):
            self.source = sources.labelled(config.data, self.task.dataset, self.task.splits)

    def module(self) -> LabelledTask:
        """The task on a backbone, with random weights."""
        return self.task(self.resolved_task, self.shape)

    @cached_property
    def test_splits(self) -> tuple[str, ...]:
        """All splits but the one that is learnt from, and the views of them that the records allow."""
        splits = tuple(split for split in self.source.sizes if split != "train")
        return splits + tuple(view for view, (split, field) in self.task.views.items() if self._marks(split, field))

    def _marks(self, split: str, field: str) -> bool:
        return any(record.get(field) is not None for record in self.source.records(split))

    @cached_property
    def train(self) -> LabelledProteins:
        """The proteins to learn from: those that have a label."""
        return self.read("train").labelled()

    @cached_property
    def valid(self) -> LabelledProteins:
        """The proteins to select by, of those that have a label."""
        return self.read("valid").labelled().at_most(self.config.task.valid_proteins)

    def to_score(self, name: str) -> LabelledProteins:
        """The proteins of a split, or of a view, that the best weights are scored on: of ``valid``, what chose them."""
        return self.valid if name == "valid" else self.read(name).at_most(self.config.task.test_proteins)

    def read(self, name: str) -> LabelledProteins:
        """All proteins of a split, or of a view."""
        split, field = self.task.views.get(name, (name, ""))
        if split not in self.source.sizes:
            raise InputError(f"split={name} is not one of {', '.join((*self.source.sizes, *self.task.views))}")
        records = self.source.records(split)
        if field:
            records = (narrow_mask(record, field) for record in records)
        origin, labels = self.source.origins[split], self.task.labels(self.resolved_task)
        return labelled.read(records, labels, origin=origin, longest=self.longest)

    def schedule(self, seed: int) -> Schedule:
        """The order of training with a seed."""
        lengths, budget = self.train.lengths, self.config.task.micro_batch_tokens
        if not len(lengths):
            raise InputError(f"{self.source.origins['train']}: no protein has a label")
        if lengths.max() + 1 > budget:
            raise InputError(
                f"task.micro_batch_tokens={budget} cannot hold the longest protein of {self.source.origins['train']}: "
                f"{lengths.max()} residues and [CLS]"
            )
        per_step, targets = self.config.task.micro_batches, self.train.terms
        return Schedule(lengths, longest=self.longest, budget=budget, per_step=per_step, seed=seed, targets=targets)

    def steps(self, schedule: Schedule) -> int:
        """Optimiser steps of the budget."""
        task = self.config.task
        if not task.epochs:
            return task.steps
        micro_batches = sum(len(schedule.epoch(number)) for number in range(task.epochs))
        return min(task.steps, -(-micro_batches // task.micro_batches))

    def announce(self) -> None:
        """Say how many proteins there are, and where real data are not what TAPE published."""
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.source.sizes.items())
        print(f"{self.config.task.label}: {sizes} proteins", *self.source.remarks, sep="\n", file=sys.stderr)
        for split, size in self.source.sizes.items():
            if isinstance(self.config.data, FilesDataConfig) and size != self.task.splits[split]:
                print(
                    f"warning: {self.source.origins[split]} has {size:,} proteins, TAPE's {self.task.splits[split]:,}",
                    file=sys.stderr,
                )


def narrow_mask(record: Record, field: str) -> Record:
    """The record with nothing resolved but what `field` marks; nothing at all if it has no such field."""
    if record.get(field) is None:
        return {**record, "valid_mask": np.zeros_like(record["valid_mask"])}
    marked = numbers(record, field, (len(record["primary"]),)) > 0
    return {**record, "valid_mask": np.where(marked, record["valid_mask"], 0)}


class Batches(L.LightningDataModule):
    """Packed batches: to train, from the step that has been reached; to score, of all proteins of some splits."""

    def __init__(
        self,
        config: FinetuneConfig,
        scored: dict[str, LabelledProteins],
        train: LabelledProteins | None = None,
        schedule: Schedule | None = None,
        steps: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.scored, self.train, self.schedule, self.steps = config, scored, train, schedule, steps

    def train_dataloader(self) -> DataLoader[LabelledBatch]:
        """Up to the next validation."""
        assert self.trainer
        assert self.train
        assert self.schedule
        done = self.trainer.global_step
        until = next_validation(done, self.steps, self.config.task.validations)
        spread = self.config.strategy
        share = ShareOfSteps(
            self.schedule, done, until, spread.data_rank(self.trainer.global_rank), spread.data_processes
        )
        return loader(LabelledBatches(self.train, self.schedule.seed), share, self.config.train.workers, self._pinned())

    def val_dataloader(self) -> list[DataLoader[LabelledBatch]]:
        assert self.trainer
        return [
            labelled.scoring_loader(
                proteins,
                budget=self.config.task.micro_batch_tokens,
                rank=self.config.strategy.data_rank(self.trainer.global_rank),
                world=self.config.strategy.data_processes,
                workers=self.config.train.workers,
                pin_memory=self._pinned(),
            )
            for proteins in self.scored.values()
        ]

    def _pinned(self) -> bool:
        assert self.trainer
        return self.trainer.strategy.root_device.type == "cuda"
