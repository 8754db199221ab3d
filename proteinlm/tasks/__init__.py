"""What can be learnt: pretraining and the downstream tasks, all on one backbone."""

from importlib import import_module
from typing import TYPE_CHECKING

from proteinlm.config import CustomTaskConfig, LabelledTaskConfig
from proteinlm.errors import InputError

if TYPE_CHECKING:
    from proteinlm.tasks.labelled import LabelledTask
    from proteinlm.tasks.language_model import LanguageModel

TASKS = {
    "secondary_structure": "SecondaryStructure",
    "remote_homology": "RemoteHomology",
    "contact": "Contact",
    "fluorescence": "Fluorescence",
    "stability": "Stability",
}
"""The downstream tasks: each is the class of this name in the module of its own name, imported when it is needed."""

CUSTOM = {
    "class": "CustomClass",
    "number": "CustomNumber",
    "residues": "CustomResidues",
    "residue_numbers": "CustomResidueNumbers",
}
"""A user's own task, by the kind of its labels: classes of the module ``custom``."""


PRETRAINING = {"masked_language_model": "MaskedLanguageModel", "next_residue": "NextResidue"}
"""The ways to pretrain, likewise."""


def pretraining(name: str) -> "type[LanguageModel]":
    """The module class of a way to pretrain."""
    return getattr(import_module(f"proteinlm.tasks.{name}"), PRETRAINING[name])


def downstream(name: str) -> "type[LabelledTask]":
    """The module class of a downstream task."""
    if name not in TASKS:
        raise InputError(f"task.name={name} is not one of {', '.join(TASKS)}")
    return getattr(import_module(f"proteinlm.tasks.{name}"), TASKS[name])


def module_of(config: LabelledTaskConfig) -> "type[LabelledTask]":
    """The module class of a config whose kind of labels, if they are a user's own, is settled."""
    if not isinstance(config, CustomTaskConfig):
        return downstream(config.name)
    if config.kind not in CUSTOM:
        raise InputError(
            f"task.kind={config.kind}: only the data, or a task.json beside the weights, can tell the kind"
        )
    return getattr(import_module("proteinlm.tasks.custom"), CUSTOM[config.kind])
