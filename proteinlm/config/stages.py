"""One stage, completely: what ``pretrain.yaml``, ``finetune.yaml`` and ``evaluate.yaml`` come to."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from proteinlm.config.adapters import AdapterConfig
from proteinlm.config.baselines import LSTMConfig
from proteinlm.config.checks import at_least, plain_name
from proteinlm.config.data import DataConfig
from proteinlm.config.model import ModelConfig, PretrainedConfig, ScaleConfig, StartConfig
from proteinlm.config.tasks import LabelledTaskConfig, LanguageModelConfig, NextResidueConfig, TaskConfig
from proteinlm.config.training import MachineConfig, OptimConfig, StrategyConfig, TrackingConfig, TrainConfig
from proteinlm.errors import InputError


@dataclass
class StageConfig:
    """The knobs of every stage: the name and place of its result, its data, and its processes."""

    name: str = MISSING
    """Row of the table or name of the model."""
    group: str = "single"
    """What the run belongs to: the sweep's name. Results go to ``output/group/name/``."""
    output: str = "runs"
    """Directory of all results."""
    seed: int = 0
    """Of initial weights, order, masks, crops and dropout."""
    data: DataConfig = MISSING
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    force: bool = False
    """Start even if the planner says that it cannot fit."""
    hardware: str = "auto"
    """The hardware that the planner assumes: ``h200``, ``h100``, ``a100``, ``cpu``, or ``auto`` for what is there."""

    IRRELEVANT: ClassVar[frozenset[str]] = frozenset(
        {"name", "group", "output", "tracking", "strategy", "force", "hardware", "dry_run"}
        | {f"data.{knob}" for knob in ("root", "cache", "csv", "letters")}
        | {
            f"train.{knob}"
            for knob in (
                "max_epochs",
                "checkpoint_seconds",
                "workers",
                "threads",
                "accelerator",
                "compile",
                "nonfinite",
                "fp8",
                "cuda_graphs",
            )
        }
    )
    """Knobs that cannot change the result but for rounding: where it is written, who watches, how often it is saved, what
    computes it and on how many processes, and where the data lie, whose content has a fingerprint. Two may:
    ``train.nonfinite``, whose result says how many steps were skipped, and ``train.fp8``, whose result says that
    precision."""

    def __post_init__(self) -> None:
        for knob in ("name", "group"):
            plain_name(knob, getattr(self, knob))
        at_least(0, "seed", self.seed)
        if self.seed >= 2**63:
            raise InputError(f"seed={self.seed} is not below 2**63")

    def digest(self) -> str:
        """Hash of every knob that can change the result."""
        return digest(relevant(asdict(self), self.IRRELEVANT))


@dataclass
class RunConfig(StageConfig):
    """One pretraining run, completely."""

    model: ModelConfig = MISSING
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    task: TaskConfig = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    dry_run: bool = False
    """Plan, divide the model as the strategy says, and print what each process would hold; train nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backbone.__post_init__()
        self.strategy.check(self.backbone)
        self.train.check(self.backbone, self.strategy)
        if not isinstance(self.task, LanguageModelConfig):
            raise InputError(
                f"task={self.task.name} is for `proteinlm finetune`: pretraining takes masked_language_model or next_residue"
            )
        if isinstance(self.task, NextResidueConfig) and not isinstance(self.model, LSTMConfig):
            raise InputError("task=next_residue needs a model that reads in both directions apart: model=lstm")
        _share_micro_batches(self.train.micro_batches, self.strategy, "train")

    @property
    def backbone(self) -> ModelConfig:
        """The shape that is built: the model's after the profile's scaling."""
        return self.scale.apply(self.model)


@dataclass
class FinetuneConfig(StageConfig):
    """One task, fine-tuned from one start with several seeds, completely."""

    name: str = ""
    """Row of the table or name of the model; by default that of the pretraining run whose ``pretrain/model`` it starts from,
    of any other directory its own, or ``scratch``."""
    model: StartConfig = MISSING
    task: LabelledTaskConfig = MISSING
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: MachineConfig = field(default_factory=MachineConfig)
    seeds: int = 3
    """Runs that differ in the new weights, the order of the proteins and the dropout: `seed`, `seed` + 1, ..."""
    keep_weights: bool = False
    """Keep each seed's best weights after the result is written. A finished fine-tuning whose weights are gone is refused:
    it would have to run again, under another name."""

    IRRELEVANT: ClassVar[frozenset[str]] = StageConfig.IRRELEVANT | {"model.path", "keep_weights"}

    @property
    def kept_weights(self) -> Path:
        """Where `keep_weights` leaves the best weights of the first seed."""
        return self.directory / f"seed-{self.seed}" / "best"

    def __post_init__(self) -> None:
        if not self.name:
            self.name = self.model.run_name if isinstance(self.model, PretrainedConfig) else "scratch"
        super().__post_init__()
        at_least(1, "seeds", self.seeds)
        if isinstance(self.model, ModelConfig):
            self.strategy.check(self.model)
        _share_micro_batches(self.task.micro_batches, self.strategy, "task")
        if self.adapter.name != "none" and self.task.freeze != "none":
            raise InputError(f"adapter={self.adapter.name} and task.freeze={self.task.freeze} exclude each other")
        if self.adapter.name != "none" and self.strategy.sharded:
            raise InputError(
                f"strategy={self.strategy.name} divides the matrices that adapter={self.adapter.name} leaves whole: "
                "take strategy=ddp or ddp_sharded"
            )

    @property
    def directory(self) -> Path:
        """The directory of the stage: ``output/group/name/<task>``."""
        return Path(self.output) / self.group / self.name / self.task.label


@dataclass
class RowConfig(RunConfig):
    """One row of the table: pretraining, then fine-tuning on task after task, completely."""

    finetune: dict[str, LabelledTaskConfig] = field(default_factory=dict)
    """The tasks in order, each under its label."""
    seeds: int = 1
    """Of each fine-tuning."""
    keep_weights: bool = False
    """Keep the best weights of each fine-tuning."""
    control: str = ""
    """The row of this name is also fine-tuned from random weights, as ``scratch-<name>``; ``all`` is each of the ten."""
    start: str = ""
    """Directory of weights that others trained, as ``model.path`` takes them: the tasks start from these, and nothing is
    pretrained. The model and its budget are not read then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for label, task in self.finetune.items():
            if label != task.label:
                raise InputError(f"finetune.{label} is a config of {task.label}: name it so")
        self.finetunings(PretrainedConfig(path="."))  # checks them too

    @property
    def pretraining(self) -> RunConfig:
        return RunConfig(**_shared(self, RunConfig))

    @property
    def pretrained(self) -> PretrainedConfig:
        """The weights that the tasks start from: those of `start`, or what pretraining leaves."""
        left = Path(self.output) / self.group / self.name / "pretrain" / "model"
        return PretrainedConfig(path=self.start or str(left))

    def finetunings(self, start: StartConfig, name: str = "") -> list[FinetuneConfig]:
        """Every task from the same start; results go under the row's name, or another."""
        machine = MachineConfig(**_shared(self.train, MachineConfig))
        own = _shared(self, StageConfig) | {"name": name or self.name}
        rest = {"seeds": self.seeds, "keep_weights": self.keep_weights, "train": machine, "model": start}
        return [FinetuneConfig(**own, **rest, task=task) for task in self.finetune.values()]


def _shared(config: Any, base: type) -> dict[str, Any]:
    """The values of those fields of `config` that `base`, one of its base classes, has."""
    return {each.name: getattr(config, each.name) for each in fields(base)}


@dataclass
class EvaluateConfig(FinetuneConfig):
    """Score the weights that a fine-tuning with `keep_weights` left behind."""

    split: str = MISSING
    """``valid``, or a test split of the task: ``test``, ``cb513``, ``test_fold_holdout``, ..."""


def relevant(values: Mapping[str, Any], irrelevant: Collection[str]) -> dict[str, Any]:
    """A copy of a config's plain `values` without the `irrelevant` knobs, which are named like ``train.threads``."""
    inner = {knob.partition(".")[::2] for knob in irrelevant}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if (name, "") in inner:
            continue
        below = [rest for section, rest in inner if section == name]
        found[name] = relevant(value, below) if below and isinstance(value, Mapping) else value
    return found


def digest(values: Any) -> str:
    """Twelve hexadecimal digits that identify plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _share_micro_batches(micro_batches: int, strategy: StrategyConfig, knobs: str) -> None:
    if micro_batches % strategy.data_processes:
        knob = "strategy.devices * strategy.nodes" + (" / strategy.tensor" if strategy.tensor_size > 1 else "")
        raise InputError(
            f"{knob} = {strategy.data_processes} does not divide the {micro_batches} "
            f"micro-batches of a step ({knobs}.step_tokens / {knobs}.micro_batch_tokens)"
        )
