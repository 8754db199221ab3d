"""Helix, strand or coil of every residue (Q3), or the eight states of DSSP (Q8): paper section 3.2.1."""

from functools import partial
from typing import ClassVar, final

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from proteinlm.config import LabelledTaskConfig, ModelConfig, SecondaryStructureConfig
from proteinlm.data.labelled import LabelledBatch, Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.heads import ResidueConvolution, ResidueMLP
from proteinlm.metrics import IGNORED, RecordMetric, ResidueAccuracy
from proteinlm.tasks.labelled import Heads, LabelledTask


@final
class SecondaryStructure(LabelledTask):
    """Cross-entropy over resolved residues; scored by the share of them that is right.

    TAPE and ProteinLM scored the unresolved ones too, which their records call helices. CB513 holds whole chains, of
    which TAPE scored every residue; most later papers score the domains that CB513 was made of, ``cb513_proper``.
    """

    dataset = "secondary_structure"
    splits: ClassVar = {"train": 8678, "valid": 2170, "cb513": 513, "ts115": 115, "casp12": 21}
    views: ClassVar = {"cb513_proper": ("cb513", "cb513_mask")}
    score = "accuracy"

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(partial(states, classes=_classes(config)), lambda target: int((target != IGNORED).sum()))

    @classmethod
    def heads(cls, config: LabelledTaskConfig, model: ModelConfig) -> Heads:
        hidden, classes = model.hidden_size, _classes(config)
        return {
            "mlp": partial(ResidueMLP, hidden, classes, model.dropout),
            "convolution": partial(ResidueConvolution, hidden, classes),
        }

    def metric(self) -> RecordMetric:
        return ResidueAccuracy()

    def summed_loss(self, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(self(batch.packed), batch.targets, ignore_index=IGNORED, reduction="sum")

    def update(self, metric: RecordMetric, output: Tensor, batch: LabelledBatch) -> None:
        metric.update(output, batch.targets, batch.packed.starts, batch.records)


def states(record: Record, classes: int) -> np.ndarray:
    """State of each residue, (L,) int64; IGNORED where it is unresolved or its state is not known."""
    name, length = f"ss{classes}", len(record["primary"])
    state, resolved = numbers(record, name, (length,)), numbers(record, "valid_mask", (length,)) > 0
    wrong = ~((state >= IGNORED) & (state < classes))
    if wrong.any():
        residue = int(wrong.argmax())
        raise InputError(
            f"{name} is {state[residue]} at residue {residue + 1}, not 0 to {classes - 1}, or -1 for unknown"
        )
    return np.where(resolved, state, IGNORED).astype(np.int64)


def _classes(config: LabelledTaskConfig) -> int:
    assert isinstance(config, SecondaryStructureConfig)
    return config.classes
