"""Which of 1,195 folds a protein has: paper section 3.2.2."""

from typing import ClassVar, final

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from proteinlm.config import LabelledTaskConfig, ModelConfig
from proteinlm.data.labelled import LabelledBatch, Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.metrics import ProteinAccuracy, RecordMetric
from proteinlm.tasks.labelled import Heads, LabelledTask, protein_heads

FOLDS = 1195


@final
class RemoteHomology(LabelledTask):
    """Cross-entropy; scored by the share of proteins whose most likely fold is theirs (top-1).

    The three test splits hold out whole folds' superfamilies, whole superfamilies' families, and proteins of known
    families: TAPE's table, and the paper's, are of the first.
    """

    dataset = "remote_homology"
    splits: ClassVar = {
        "train": 12312,
        "valid": 736,
        "test_fold_holdout": 718,
        "test_superfamily_holdout": 1254,
        "test_family_holdout": 1272,
    }
    score = "accuracy"

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(fold, lambda target: 1)

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        return protein_heads(model, FOLDS)

    def metric(self) -> RecordMetric:
        return ProteinAccuracy()

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(self(batch.packed), batch.targets, reduction="sum")

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(output, batch.targets, batch.records)


def fold(record: Record) -> np.ndarray:
    """Number of the fold, () int64."""
    label = numbers(record, "fold_label", ())
    if not (0 <= label < FOLDS) or label != int(label):
        raise InputError(f"fold_label is {label}, not 0 to {FOLDS - 1}")
    return label.astype(np.int64)
