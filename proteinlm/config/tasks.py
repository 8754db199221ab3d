"""What is learnt."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from proteinlm.config.checks import at_least, below_one, one_of
from proteinlm.config.training import BudgetConfig, OptimConfig
from proteinlm.errors import InputError


@dataclass
class TaskConfig:
    """What is learnt; each task has a subclass, which selects its module (`proteinlm.tasks.TASKS`)."""

    name: str = MISSING


@dataclass
class LanguageModelConfig(TaskConfig, ABC):
    """Pretraining on the proteins themselves."""

    @property
    @abstractmethod
    def target_percent(self) -> int:
        """Share of a protein's residues that are predicted, in hundredths."""


@dataclass
class MaskedLanguageModelConfig(LanguageModelConfig):
    """Pretraining (paper section 3.1): hide residues, recover them."""

    name: str = "masked_language_model"
    mask_percent: int = 15
    """``ceil(mask_percent / 100 * residues)`` residues of each protein are targets."""

    def __post_init__(self) -> None:
        if not 1 <= self.mask_percent <= 100:
            raise InputError(f"task.mask_percent={self.mask_percent} is not between 1 and 100")

    @property
    def target_percent(self) -> int:
        return self.mask_percent


@dataclass
class NextResidueConfig(LanguageModelConfig):
    """Pretraining of the LSTM, as TAPE's was: from the residues before each the next one, and from those after it."""

    name: str = "next_residue"

    @property
    def target_percent(self) -> int:
        return 100


@dataclass
class LabelledTaskConfig(BudgetConfig, TaskConfig):
    """A downstream task: what is put on the backbone, and the recipe it is fine-tuned by."""

    head: str = "mlp"
    """``mlp`` is the paper's; each task's module lists the others."""
    freeze: str = "none"
    """``none`` trains every weight; ``backbone`` trains the head alone: a probe."""
    learning_rate: float = 1e-4
    """Reached after the warm-up, from where it falls linearly to zero at the end of the budget."""
    warmup_fraction: float = 0.1
    """Share of the budget in which the learning rate rises from zero."""
    weight_decay: float = 0.01
    tokens: int = 1_000_000
    """Budget of each seed, residues and one [CLS] per protein; rounded up to whole steps."""
    epochs: int = 0
    """Stop after this many epochs if that comes before `tokens`; 0: no limit."""
    step_tokens: int = 8_192
    validations: int = 20
    """How often the validation split is scored, evenly spread over the budget; the best weights are kept."""
    patience: int = 6
    """Stop early after this many validations without a better score; 0: never."""
    valid_proteins: int = 0
    """Select by at most this many labelled proteins of the validation split, evenly spaced; 0: by all."""
    test_proteins: int = 0
    """Score at the end at most this many proteins of each test split, evenly spaced; 0: all, as a result should."""

    WHERE: ClassVar[str] = "task"

    def __post_init__(self) -> None:
        super().__post_init__()
        for knob in ("epochs", "patience", "valid_proteins", "test_proteins"):
            at_least(0, f"task.{knob}", getattr(self, knob))
        for knob in ("learning_rate", "weight_decay"):
            at_least(0, f"task.{knob}", getattr(self, knob))
        below_one("task.warmup_fraction", self.warmup_fraction)
        one_of("task.freeze", self.freeze, ("none", "backbone"))

    @property
    def label(self) -> str:
        """The name of the task in results and directories."""
        return self.name

    @property
    def optim(self) -> OptimConfig:
        return OptimConfig(
            learning_rate=self.learning_rate,
            min_learning_rate=0.0,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
        )


@dataclass
class SecondaryStructureConfig(LabelledTaskConfig):
    """Helix, strand or coil of every residue (Q3), or the eight states of DSSP (Q8)."""

    name: str = "secondary_structure"
    classes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes not in (3, 8):
            raise InputError(f"task.classes={self.classes} is neither 3 nor 8")

    @property
    def label(self) -> str:
        return f"{self.name}_q{self.classes}"


KINDS = ("class", "number", "residues", "residue_numbers")
"""Of a user's own labels: a class or a number of each protein, or of each of its residues."""


@dataclass
class CustomTaskConfig(LabelledTaskConfig):
    """A user's own labels (`CsvDataConfig`)."""

    name: str = "custom"
    kind: str = "auto"
    """One of `KINDS`; ``auto`` sees it from the labels."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, or letters of the residues' classes; by default those that occur, sorted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.kind", self.kind, ("auto", *KINDS))
        if len(set(self.classes)) < len(self.classes):
            raise InputError("task.classes names a class twice")
