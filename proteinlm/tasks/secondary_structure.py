"""Helix, strand or coil of every residue (Q3), or the eight states of DSSP (Q8): paper section 3.2.1."""

from functools import partial
from typing import ClassVar, final

import numpy as np

from proteinlm.config import LabelledTaskConfig, SecondaryStructureConfig
from proteinlm.data.batches.labelled import Labels, Record, numbers
from proteinlm.errors import InputError
from proteinlm.tasks.classification import ResidueClassification, labelled_residues
from proteinlm.tasks.metrics import IGNORED


@final
class SecondaryStructure(ResidueClassification):
    """Cross-entropy over resolved residues; scored by the share of them that is right.

    TAPE and ProteinLM scored the unresolved ones too, which their records call helices. CB513 holds whole chains, of
    which TAPE scored every residue; most later papers score the domains that CB513 was made of, ``cb513_proper``.
    """

    dataset = "secondary_structure"
    splits: ClassVar = {"train": 8678, "valid": 2170, "cb513": 513, "ts115": 115, "casp12": 21}
    views: ClassVar = {"cb513_proper": ("cb513", "cb513_mask")}

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(partial(states, classes=cls.outputs(config)), labelled_residues)

    @classmethod
    def outputs(cls, config: LabelledTaskConfig) -> int:
        assert isinstance(config, SecondaryStructureConfig)
        return config.classes


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
