"""One number of each protein, as fluorescence and stability have (paper section 3.3), or of each of its residues."""

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
from proteinlm.models.heads import ProteinPositions, ResidueConvolution, ResidueLinear, ResidueMLP
from proteinlm.tasks.labelled import Heads, LabelledTask, protein_heads
from proteinlm.tasks.metrics import RecordMetric, Regression, ResidueRanking


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


class ResidueRegression(LabelledTask, ABC):
    """Mean squared error on the numbers of residues, standardised as those of proteins are; nan is no target.

    Scored by Spearman's rank correlation over the residues of all proteins.
    """

    score = "spearman"

    def __init__(self, config: LabelledTaskConfig, model: ModelConfig) -> None:
        super().__init__(config, model)
        self.scale = Scale()

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        return {
            "mlp": partial(ResidueMLP, model.hidden_size, 1, model.dropout),
            "convolution": partial(ResidueConvolution, model.hidden_size, 1),
            "linear": partial(ResidueLinear, model.hidden_size, 1, model.dropout),
        }

    def metric(self) -> RecordMetric:
        return ResidueRanking()

    def prepare(self, training: LabelledProteins) -> None:
        targets = np.concatenate(training.targets)
        self.scale.fit(targets[~np.isnan(targets)])

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        there = ~batch.targets.isnan()
        wanted = self.scale.standardise(batch.targets[there])
        return F.mse_loss(self(batch.packed).squeeze(-1)[there], wanted, reduction="sum")

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(self.scale.restore(output.squeeze(-1)), batch.targets, batch.packed.starts, batch.records)


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


def measured_residues(target: np.ndarray) -> int:
    """Number of residues of a target (L,) that have a number."""
    return int((~np.isnan(target)).sum())


def number(record: Record, name: str) -> np.ndarray:
    """A finite target, () float32."""
    value = numbers(record, name, ()).astype(np.float32)
    if not np.isfinite(value):
        raise InputError(f"{name} is {value}")
    return value
