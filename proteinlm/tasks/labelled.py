"""What the downstream tasks have in common: a head on the backbone, a loss over labels, and scores record by record.

T tokens of packed proteins, B proteins, C outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from proteinlm.config import LabelledTaskConfig, ModelConfig
from proteinlm.data.batches.labelled import LabelledBatch, LabelledProteins, Labels
from proteinlm.data.batches.packing import Packed
from proteinlm.errors import InputError
from proteinlm.models import registry
from proteinlm.models.heads import (
    Head,
    ProteinLightAttention,
    ProteinLinear,
    ProteinMean,
    ProteinMLP,
    ProteinWeightNorm,
)
from proteinlm.parallel.module import data_processes
from proteinlm.records.bootstrap import Sample
from proteinlm.tasks.base import TaskModule
from proteinlm.tasks.metrics import RecordMetric

Heads = Mapping[str, Callable[[], Head]]
"""The choices of ``task.head``."""


class LabelledTask(TaskModule, ABC):
    """A backbone and a head, which learn from the labels of one split and are scored on others."""

    dataset: ClassVar[str]
    """TAPE's name for the records."""
    splits: ClassVar[Mapping[str, int]]
    """``train``, ``valid`` and the test splits, with the number of proteins that TAPE published of each."""
    views: ClassVar[Mapping[str, tuple[str, str]]] = MappingProxyType({})
    """Test splits narrowed to the residues that a field marks, where records have it: by name, the split and the field."""
    score: ClassVar[str]
    """The metric that the best weights are chosen by, on ``valid``; more is better."""

    def __init__(self, config: LabelledTaskConfig, model: ModelConfig) -> None:
        super().__init__(model, config.optim, config.steps, config.micro_batches)
        self.config = config
        self.head = self.choose_head(config, model)()
        self.frozen = config.freeze == "backbone"
        self.backbone.requires_grad_(not self.frozen)
        self.evaluate_on("valid")

    @classmethod
    @abstractmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        """How records become targets."""

    @classmethod
    @abstractmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        """The heads to choose from, the paper's first."""

    @abstractmethod
    def metric(self) -> RecordMetric:
        """A new metric, whose scores include `score`."""

    @abstractmethod
    def update(self, metric: RecordMetric, output: Any, batch: LabelledBatch) -> None:
        """Add what the head said of a batch to a metric."""

    @classmethod
    def choose_head(cls, config: LabelledTaskConfig, model: ModelConfig) -> Callable[[], Head]:
        heads = cls.heads(config, model)
        if config.head not in heads:
            raise InputError(f"task.head={config.head} is not one of {', '.join(heads)} ({config.name})")
        return heads[config.head]

    def prepare(self, training: LabelledProteins) -> None:
        """Take from the training split what is not learnt by gradient."""

    def draw(self, proteins: Mapping[str, LabelledProteins], seed: int, directory: Path | None) -> None:
        """Save, while the splits of `proteins` are scored, what a figure of one of them needs, if the task has one.

        Nowhere without a `directory`: where processes share a model, one of them writes.
        """

    def parts(self) -> dict[str, nn.Module]:
        """All modules with weights, by the prefix they are saved under."""
        return {name: part for name, part in self.named_children() if part is not self.metrics}

    def evaluate_on(self, *splits: str) -> None:
        """From now on, the validation loaders hold these splits."""
        self.evaluations = splits
        self.metrics = nn.ModuleList(self.metric() for _ in splits)
        self.samples: dict[str, dict[str, Sample]] = {}

    def forward(self, packed: Packed) -> Any:
        tokens, starts, longest, _ = packed
        if self.head.reads_cls_alone:
            cls = starts[:-1].long()
            hidden = registry.states_at(self.backbone, tokens, starts, longest, cls)  # (B, H)
            return self.head(hidden, torch.arange(len(cls) + 1, device=cls.device))
        hidden = self.backbone(tokens, starts, longest)  # (T, H)
        return self.head(hidden, starts)

    def validation_step(self, batch: LabelledBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        metric = self.metrics[dataloader_idx]
        assert isinstance(metric, RecordMetric)
        self.update(metric, self(batch.packed), batch)

    def statistics(self) -> list[Tensor]:
        return [buffer for buffer in self.head.buffers() if buffer.is_floating_point()]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for buffer in self.statistics():  # each process has seen its own share of the proteins
            self.summed_over_processes(buffer).div_(data_processes(self.data_group))

    def on_validation_epoch_end(self) -> None:
        for split, metric in zip(self.evaluations, self.metrics, strict=True):
            assert isinstance(metric, RecordMetric)
            self.samples[split] = metric.per_record()
            metric.reset()
            self.log_dict({f"{split}/{name}": sample.estimate() for name, sample in self.samples[split].items()})

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()  # a probe reads the same hidden states every time
        return self


def protein_heads(model: ModelConfig, outputs: int) -> Heads:
    """The heads of one answer per protein: the paper's, a single layer, TAPE's, and that of the authors' fork of TAPE, which
    all read [CLS]; the mean over residues; and light attention to them.
    """
    hidden, dropout = model.hidden_size, model.dropout
    return {
        "mlp": partial(ProteinMLP, hidden, outputs, dropout),
        "linear": partial(ProteinLinear, hidden, outputs, dropout),
        "weight_norm": partial(ProteinWeightNorm, hidden, outputs),
        "weight_norm_wide": partial(ProteinWeightNorm, hidden, outputs, width=1024, pooler=False),
        "mean": partial(ProteinMean, hidden, outputs, dropout),
        "light_attention": partial(ProteinLightAttention, hidden, outputs, dropout),
    }
