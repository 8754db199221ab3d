"""What fluorescence and stability have in common: one number of each protein, ranked (paper section 3.3)."""

from abc import ABC
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.config import LabelledTaskConfig, ModelConfig
from proteinlm.data.batches.labelled import LabelledBatch, LabelledProteins, Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.models.heads import ProteinPositions
from proteinlm.tasks.labelled import Heads, LabelledTask, protein_heads
from proteinlm.tasks.metrics import RecordMetric, Regression


class ScalarRegression(LabelledTask, ABC):
    """Mean squared error on targets standardised by the training split's mean and deviation.

    Scored in the targets' own units, by Spearman's rank correlation over the whole split. (ProteinLM and TAPE did not
    standardise; ProteinLM correlated each process's proteins by themselves.)
    """

    field: ClassVar[str]
    """The field of a record that holds its target."""
    score = "spearman"

    def __init__(self, config: LabelledTaskConfig, model: ModelConfig) -> None:
        super().__init__(config, model)
        self.scale = Scale()

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(partial(number, name=cls.field), lambda target: 1)

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        variants = partial(ProteinPositions, model.hidden_size, 1, model.dropout, model.max_positions)
        return {**protein_heads(model, 1), "positions": variants}

    def metric(self) -> RecordMetric:
        return Regression()

    def prepare(self, training: LabelledProteins) -> None:
        self.scale.fit(np.stack(training.targets))

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        return F.mse_loss(self(batch.packed).squeeze(-1), self.scale.standardise(batch.targets), reduction="sum")

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(self.scale.restore(output.squeeze(-1)), batch.targets, batch.records)


class Scale(nn.Module):
    """Mean and standard deviation of targets; saved with the weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def fit(self, targets: np.ndarray) -> None:
        """Take mean and deviation from `targets` (N,)."""
        deviation = targets.std(dtype=np.float64)
        self.mean.fill_(targets.mean(dtype=np.float64))
        self.deviation.fill_(deviation if deviation > 0 else 1.0)

    def standardise(self, targets: Tensor) -> Tensor:
        return (targets - self.mean) / self.deviation

    def restore(self, standardised: Tensor) -> Tensor:
        return standardised * self.deviation + self.mean


def number(record: Record, name: str) -> np.ndarray:
    """A finite target, () float32."""
    value = numbers(record, name, ()).astype(np.float32)
    if not np.isfinite(value):
        raise InputError(f"{name} is {value}")
    return value
