"""A user's own labels: a class or a number of each protein, or of each residue (`proteinlm.data.csv_labels`)."""

from functools import partial
from typing import ClassVar, final

import numpy as np

from proteinlm.config import CustomTaskConfig, LabelledTaskConfig
from proteinlm.data.batches.labelled import Labels, Record, numbers
from proteinlm.data.formats.biotrainer import UNKNOWN
from proteinlm.errors import InputError
from proteinlm.tasks.classification import ProteinClassification, ResidueClassification, labelled_residues
from proteinlm.tasks.metrics import IGNORED
from proteinlm.tasks.regression import ResidueRegression, ScalarRegression, measured_residues


class NamedClasses:
    """Mixin of the tasks whose classes are the config's `classes`."""

    dataset = "custom"
    splits: ClassVar = {}

    @classmethod
    def outputs(cls, config: LabelledTaskConfig) -> int:
        return len(_names(config))


@final
class CustomClass(NamedClasses, ProteinClassification):
    """One of the config's `classes` of each protein."""

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        numbers = {name: number for number, name in enumerate(_names(config))}
        return Labels(partial(class_of, numbers=numbers), lambda target: 1)


@final
class CustomNumber(ScalarRegression):
    """A number of each protein."""

    dataset = "custom"
    splits: ClassVar = {}
    field = "label"


@final
class CustomResidues(NamedClasses, ResidueClassification):
    """One of the config's `classes`, a letter each, of each residue."""

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        numbers = {name: number for number, name in enumerate(_names(config))} | {UNKNOWN: IGNORED}
        return Labels(partial(classes_of, numbers=numbers), labelled_residues)


@final
class CustomResidueNumbers(ResidueRegression):
    """A number of each residue; nan where it has none."""

    dataset = "custom"
    splits: ClassVar = {}

    @classmethod
    def labels(cls, config: LabelledTaskConfig) -> Labels:
        return Labels(numbers_of, measured_residues)


def numbers_of(record: Record) -> np.ndarray:
    """The number of each residue, (L,) float32, nan where it has none."""
    return numbers(record, "label", (len(record["primary"]),)).astype(np.float32)


def class_of(record: Record, numbers: dict[str, int]) -> np.ndarray:
    """Number of the class, () int64."""
    if record["label"] not in numbers:
        raise InputError(f"label {record['label']!r} is not one of task.classes")
    return np.array(numbers[record["label"]])


def classes_of(record: Record, numbers: dict[str, int]) -> np.ndarray:
    """Number of each residue's class, (L,) int64; IGNORED where it is not known."""
    label = record["label"]
    for position, letter in enumerate(label, start=1):
        if letter not in numbers:
            raise InputError(f"label {letter!r} of residue {position} is not one of task.classes")
    return np.array([numbers[letter] for letter in label])


def _names(config: LabelledTaskConfig) -> list[str]:
    assert isinstance(config, CustomTaskConfig)
    return config.classes
