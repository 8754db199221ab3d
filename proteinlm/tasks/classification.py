"""What tasks with classes have in common: one class of each protein, or of each residue."""

from abc import ABC, abstractmethod
from functools import partial

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from proteinlm.config import LabelledTaskConfig, ModelConfig
from proteinlm.data.batches.labelled import LabelledBatch
from proteinlm.models.heads import ResidueConvolution, ResidueLinear, ResidueMLP
from proteinlm.tasks.labelled import Heads, LabelledTask, protein_heads
from proteinlm.tasks.metrics import IGNORED, ProteinAccuracy, RecordMetric, ResidueAccuracy


class Classification(LabelledTask, ABC):
    """Cross-entropy over whatever has a label; scored by the share of it that is right (top-1)."""

    score = "accuracy"

    @classmethod
    @abstractmethod
    def outputs(cls, config: LabelledTaskConfig) -> int:
        """Number of classes."""

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(self(batch.packed), batch.targets, ignore_index=IGNORED, reduction="sum")


class ProteinClassification(Classification, ABC):
    """A class of each protein."""

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        return protein_heads(model, cls.outputs(config))

    def metric(self) -> RecordMetric:
        return ProteinAccuracy()

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(output, batch.targets, batch.records)


class ResidueClassification(Classification, ABC):
    """A class of each residue, but for those that have no label."""

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        hidden, classes = model.hidden_size, cls.outputs(config)
        return {
            "mlp": partial(ResidueMLP, hidden, classes, model.dropout),
            "convolution": partial(ResidueConvolution, hidden, classes),
            "linear": partial(ResidueLinear, hidden, classes, model.dropout),
        }

    def metric(self) -> RecordMetric:
        return ResidueAccuracy()

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(output, batch.targets, batch.packed.starts, batch.records)


def labelled_residues(target: np.ndarray) -> int:
    """Number of residues of a target (L,) that have a label."""
    return int((target != IGNORED).sum())
