"""Which of 1,195 folds a protein has: paper section 3.2.2."""

from typing import ClassVar, final

import numpy as np

from proteinlm.config import LabelledTaskConfig
from proteinlm.data.batches.labelled import Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.tasks.classification import ProteinClassification

FOLDS = 1195


@final
class RemoteHomology(ProteinClassification):
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

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(fold, lambda target: 1)

    @classmethod
    def outputs(cls, config: LabelledTaskConfig) -> int:
        return FOLDS


def fold(record: Record) -> np.ndarray:
    """Number of the fold, () int64."""
    label = numbers(record, "fold_label", ())
    if not (0 <= label < FOLDS) or label != int(label):
        raise InputError(f"fold_label is {label}, not 0 to {FOLDS - 1}")
    return label.astype(np.int64)
