"""Every knob of a run, typed and checked. Imports neither torch nor Lightning, so that composing a config is instant.

The YAML files under ``conf/`` hold values; the structure, the documentation and the checks are here. Derived quantities are
methods, computed in this one place. `register_schema` makes the dataclasses known to Hydra, which then rejects a misspelt
key or a wrong type; the ``__post_init__`` checks reject impossible values, naming the knob.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from proteinlm.errors import InputError


@dataclass
class StartConfig:
    """What fine-tuning starts from: a shape with random weights, or pretrained weights, which know their shape."""


@dataclass
class PretrainedConfig(StartConfig):
    """Weights that an earlier run saved."""

    path: str = ""
    """Their directory, as in ``runs/single/tiny/pretrain/model``."""

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError(
                "model.path is empty: name the directory of pretrained weights, or a shape to start from random ones, "
                "as in model=tiny"
            )


@dataclass
class ModelConfig(StartConfig):
    """Shape of the backbone (paper section 3.2; ProteinLM ``megatron/model/transformer.py``)."""

    hidden_size: int = MISSING
    num_layers: int = MISSING
    num_heads: int = MISSING
    max_positions: int = 2176
    """Positions of the learned table, [CLS] included: the longest protein has one residue less."""
    vocab_size: int = 128
    """Rows of the embedding; the 31 tokens and Megatron's padding."""
    dropout: float = 0.1
    """On the embedding and both residual branches. Attention weights are not dropped: the fast kernels cannot."""
    head_activation: str = "gelu_tanh"
    """GELU of the language-model head: ``gelu_tanh``, or ``gelu`` (erf) as in ProteinLM's released weights."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "max_positions", "vocab_size"):
            _at_least(1, f"model.{name}", getattr(self, name))
        if self.hidden_size % self.num_heads:
            raise InputError(f"model.num_heads={self.num_heads} does not divide model.hidden_size={self.hidden_size}")
        if self.vocab_size < 31:
            raise InputError(f"model.vocab_size={self.vocab_size} is smaller than the vocabulary of 31 tokens")
        if not 2 <= self.max_positions <= 65536:
            raise InputError(f"model.max_positions={self.max_positions} is not between 2 and 65536")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout={self.dropout} is not in [0, 1)")
        _one_of("model.head_activation", self.head_activation, ("gelu_tanh", "gelu"))

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size

    def training_flops(self, tokens: int, squares: int, targets: int) -> float:
        """Forward and backward over `tokens`, with `squares` the sum of squared protein lengths in tokens.

        Six per weight and token, ``12 L H`` per attended pair, and the head on the masked `targets` alone; only matrix
        products are counted, padding never occurs, and recomputation does not count.
        """
        hidden = self.hidden_size
        matrices = 6 * 12 * self.num_layers * hidden**2 * tokens
        head = 6 * (hidden**2 + self.vocab_size * hidden) * targets
        return float(matrices + 12 * self.num_layers * hidden * squares + head)

    @property
    def parameters(self) -> int:
        """Trainable parameters with the language-model head: ``L(12H^2 + 13H) + (V + P + 2)H + H^2 + 3H + V``."""
        hidden = self.hidden_size
        blocks = self.num_layers * (12 * hidden**2 + 13 * hidden)
        tables = (self.vocab_size + self.max_positions) * hidden
        return blocks + tables + 2 * hidden + hidden**2 + 3 * hidden + self.vocab_size


@dataclass
class ScaleConfig:
    """Divisors that a profile applies to the model's shape, so that a paper row fits the machine."""

    hidden_size: int = 1
    num_layers: int = 1
    num_heads: int = 1

    def apply(self, model: ModelConfig) -> ModelConfig:
        """The smaller shape. Width and heads must divide; layers round up, so that three over four leaves one."""
        for name, divisor in asdict(self).items():
            _at_least(1, f"scale.{name}", divisor)
            if name != "num_layers" and getattr(model, name) % divisor:
                raise InputError(f"scale.{name}={divisor} does not divide model.{name}={getattr(model, name)}")
        return replace(model, **{name: -(-getattr(model, name) // by) for name, by in asdict(self).items()})


@dataclass
class OptimConfig:
    """AdamW, linear warm-up and linear decay (ProteinLM ``megatron/learning_rates.py``; 1e-4 to 1e-5 in its scripts)."""

    learning_rate: float = 1e-4
    min_learning_rate: float = 1e-5
    warmup_fraction: float = 0.01
    """Share of the run's steps in which the learning rate rises from zero."""
    weight_decay: float = 0.01
    """Not applied to biases and LayerNorms."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise InputError(
                f"optim.min_learning_rate={self.min_learning_rate} is not between 0 and "
                f"optim.learning_rate={self.learning_rate}"
            )
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"optim.warmup_fraction={self.warmup_fraction} is not in [0, 1)")
        if self.max_grad_norm < 0:
            raise InputError(f"optim.max_grad_norm={self.max_grad_norm} is negative")


@dataclass
class MachineConfig:
    """How a process computes and how it keeps its progress."""

    precision: str = "auto"
    """``auto`` (bf16-mixed where the hardware multiplies bf16 fast, else fp32), ``fp32`` or ``bf16-mixed``."""
    checkpoint_seconds: float = 30.0
    """Longest time between two checkpoints; 0 writes one after every step."""
    workers: int = 0
    """Loader processes per training process."""
    threads: int = 0
    """CPU threads per training process; 0 shares the physical cores among the processes of this machine."""
    accelerator: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_seconds", "workers", "threads"):
            _at_least(0, f"train.{name}", getattr(self, name))
        _one_of("train.precision", self.precision, ("auto", "fp32", "bf16-mixed"))
        _one_of("train.accelerator", self.accelerator, ("auto", "cpu", "cuda"))


@dataclass
class TrainConfig(MachineConfig):
    """Budget and batches, in tokens: residues and one [CLS] per protein."""

    tokens: int = 10_000_000
    """Budget of the whole run; rounded up to whole steps."""
    step_tokens: int = 16_384
    """Global batch of one optimiser step, over all processes and micro-batches."""
    micro_batch_tokens: int = 4_096
    """What one process computes at once; must hold the longest protein and divide `step_tokens`."""
    validations: int = 10
    """How often the validation sets are scored, evenly spread; the last is at the end."""
    validation_tokens: int = 0
    """Size of each validation set, the first so many tokens of it; 0 takes all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "step_tokens", "micro_batch_tokens", "validations"):
            _at_least(1, f"train.{name}", getattr(self, name))
        _at_least(0, "train.validation_tokens", self.validation_tokens)
        if self.step_tokens % self.micro_batch_tokens:
            raise InputError(
                f"train.micro_batch_tokens={self.micro_batch_tokens} does not divide train.step_tokens={self.step_tokens}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step, over all processes."""
        return self.step_tokens // self.micro_batch_tokens

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.step_tokens)


@dataclass
class TaskConfig:
    """What is learnt; each task has a subclass, which selects its module (`proteinlm.tasks.TASKS`)."""

    name: str = MISSING


@dataclass
class MaskedLanguageModelConfig(TaskConfig):
    """Pretraining (paper section 3.1): hide residues, recover them."""

    name: str = "masked_language_model"
    mask_percent: int = 15
    """``ceil(mask_percent / 100 * residues)`` residues of each protein are targets."""

    def __post_init__(self) -> None:
        if not 1 <= self.mask_percent <= 100:
            raise InputError(f"task.mask_percent={self.mask_percent} is not between 1 and 100")


@dataclass
class LabelledTaskConfig(TaskConfig):
    """A downstream task: what is put on the backbone, and the recipe it is fine-tuned by."""

    head: str = "mlp"
    """``mlp`` is the paper's; each task's module lists the others."""
    freeze: str = "none"
    """``none`` trains every weight; ``backbone`` trains the head alone: a probe."""
    learning_rate: float = 1e-4
    """Reached after the warm-up, from where it falls linearly to zero at the end of the budget."""
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    tokens: int = 1_000_000
    """Budget of each seed, residues and one [CLS] per protein; rounded up to whole steps."""
    step_tokens: int = 8_192
    micro_batch_tokens: int = 4_096
    """What one process computes at once; must hold the longest protein and divide `step_tokens`."""
    validations: int = 20
    """How often the validation split is scored, evenly spread over the budget; the best weights are kept."""
    patience: int = 6
    """Training ends early after so many validations without a better score; 0 never ends it."""

    def __post_init__(self) -> None:
        for knob in ("tokens", "step_tokens", "micro_batch_tokens", "validations"):
            _at_least(1, f"task.{knob}", getattr(self, knob))
        _at_least(0, "task.patience", self.patience)
        _one_of("task.freeze", self.freeze, ("none", "backbone"))
        if self.step_tokens % self.micro_batch_tokens:
            raise InputError(
                f"task.micro_batch_tokens={self.micro_batch_tokens} does not divide task.step_tokens={self.step_tokens}"
            )

    @property
    def label(self) -> str:
        """What the task is called in results and directories."""
        return self.name

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step, over all processes."""
        return self.step_tokens // self.micro_batch_tokens

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.step_tokens)

    @property
    def optim(self) -> "OptimConfig":
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


@dataclass
class DataConfig:
    """Where proteins come from; each source has a subclass."""

    name: str = MISSING


@dataclass
class SyntheticDataConfig(DataConfig):
    """The embedded default: a made-up protein universe (`proteinlm.data.synthetic`)."""

    name: str = "synthetic"
    seed: int = 0
    folds: int = 100
    """Arrangements of strands and helices; a fifth of them never occur in the training corpus."""
    superfamilies: int = 4
    """Of each fold; the last is held out."""
    families: int = 4
    """Of each superfamily; the last is held out."""
    members: int = 24
    """Sequences of each family in the training corpus."""
    labelled: float = 1.0
    """Scale of the labelled sets (`proteinlm.data.synthetic.SIZES`)."""

    def __post_init__(self) -> None:
        for knob, lowest in (("seed", 0), ("folds", 5), ("superfamilies", 2), ("families", 2), ("members", 1)):
            _at_least(lowest, f"data.{knob}", getattr(self, knob))
        if self.folds > 300:
            raise InputError(f"data.folds={self.folds} is more than 300: there are not many more arrangements")
        if not 0 < self.labelled <= 100:
            raise InputError(f"data.labelled={self.labelled} is not above 0 and at most 100")


@dataclass
class FilesDataConfig(DataConfig):
    """Real proteins: a directory as published, or a store made of it (`proteinlm.data.store`)."""

    name: str = "files"
    root: str = MISSING
    """Holds TAPE's directories, or ``pretrain/pretrain_{train,valid,holdout}.fasta[.gz|.xz]``, or both."""
    cache: str = ""
    """Where the store is built on first use; by default the user's cache directory."""


@dataclass
class StrategyConfig:
    """How one model is spread over processes: ``nodes * devices`` of them."""

    name: str = "single"
    devices: int = 1
    """Processes on each node; on a GPU node, one per GPU."""
    nodes: int = 1

    def __post_init__(self) -> None:
        _one_of("strategy.name", self.name, ("single", "ddp"))
        _at_least(1, "strategy.devices", self.devices)
        _at_least(1, "strategy.nodes", self.nodes)
        if self.name == "single" and self.processes > 1:
            raise InputError(f"strategy.devices={self.devices} and strategy.nodes={self.nodes} need strategy=ddp")

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


@dataclass
class TrackingConfig:
    """Where metrics go besides ``metrics.csv`` and ``result.json``, which every run writes."""

    backend: str = "wandb"
    """``wandb`` (offline unless WANDB_MODE=online), ``csv`` (nothing besides) or ``none`` (no metrics.csv either)."""
    project: str = "proteinlm"

    def __post_init__(self) -> None:
        _one_of("tracking.backend", self.backend, ("wandb", "csv", "none"))


@dataclass
class StageConfig:
    """What every stage is told: whose result it makes, where that goes, from which data and on how many processes."""

    name: str = MISSING
    """Row of the table or name of the model."""
    group: str = "single"
    """What the run belongs to: the sweep's name. Results go to ``output/group/name/``."""
    output: str = "runs"
    seed: int = 0
    data: DataConfig = MISSING
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    IRRELEVANT: ClassVar[frozenset[str]] = frozenset(
        {"name", "group", "output", "tracking", "data.root", "data.cache"}
        | {f"train.{knob}" for knob in ("checkpoint_seconds", "workers", "threads", "accelerator")}
    )
    """Knobs that cannot change the result: where it is written, who watches, how often it is saved, what computes it, and
    where the data lie, whose content has a fingerprint."""

    def __post_init__(self) -> None:
        for knob in ("name", "group"):
            value = getattr(self, knob)
            if not value or value.startswith(".") or "/" in value:
                raise InputError(f"{knob}={value!r} is not a plain directory name")

    def digest(self) -> str:
        """Hash of every knob that can change the result."""
        values = asdict(self)
        for knob in self.IRRELEVANT:
            *path, last = knob.split(".")
            inner = values
            for key in path:
                inner = inner[key]
            inner.pop(last, None)
        return digest(values)


@dataclass
class RunConfig(StageConfig):
    """One pretraining run, completely."""

    model: ModelConfig = MISSING
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    task: TaskConfig = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backbone.__post_init__()
        _share_micro_batches(self.train.micro_batches, self.strategy, "train")

    @property
    def backbone(self) -> ModelConfig:
        """The shape that is built: the model's after the profile's scaling."""
        return self.scale.apply(self.model)


@dataclass
class FinetuneConfig(StageConfig):
    """One task, fine-tuned from one start with several seeds, completely."""

    name: str = ""
    """Row of the table or name of the model; by default that of the pretraining run, or ``scratch``."""
    model: StartConfig = MISSING
    task: LabelledTaskConfig = MISSING
    train: MachineConfig = field(default_factory=MachineConfig)
    seeds: int = 3
    """Runs that differ in the new weights, the order of the proteins and the dropout: `seed`, `seed` + 1, ..."""
    keep_weights: bool = False
    """Keep each seed's best weights after the result is written."""

    IRRELEVANT: ClassVar[frozenset[str]] = StageConfig.IRRELEVANT | {"model.path", "keep_weights"}

    def __post_init__(self) -> None:
        if not self.name:
            self.name = Path(self.model.path).parents[1].name if isinstance(self.model, PretrainedConfig) else "scratch"
        super().__post_init__()
        _at_least(1, "seeds", self.seeds)
        _share_micro_batches(self.task.micro_batches, self.strategy, "task")

    @property
    def directory(self) -> Path:
        """Home of the stage: ``output/group/name/<task>``."""
        return Path(self.output) / self.group / self.name / self.task.label


@dataclass
class EvaluateConfig(FinetuneConfig):
    """Score the weights that a fine-tuning with `keep_weights` left behind."""

    split: str = MISSING


def digest(values: Any) -> str:
    """Twelve hexadecimal digits that identify plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def register_schema() -> None:
    """Make the dataclasses available to the ``defaults`` lists under ``conf/``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    store.store(name="finetune_schema", node=FinetuneConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(group="model", name="schema", node=ModelConfig)
    store.store(group="model", name="pretrained_schema", node=PretrainedConfig)
    store.store(group="task", name="masked_language_model_schema", node=MaskedLanguageModelConfig)
    store.store(group="task", name="labelled_schema", node=LabelledTaskConfig)
    store.store(group="task", name="secondary_structure_schema", node=SecondaryStructureConfig)
    store.store(group="data", name="synthetic_schema", node=SyntheticDataConfig)
    store.store(group="data", name="files_schema", node=FilesDataConfig)
    store.store(group="strategy", name="schema", node=StrategyConfig)
    store.store(group="tracking", name="schema", node=TrackingConfig)


def _share_micro_batches(micro_batches: int, strategy: StrategyConfig, knobs: str) -> None:
    if micro_batches % strategy.processes:
        raise InputError(
            f"strategy.devices * strategy.nodes = {strategy.processes} does not divide the {micro_batches} "
            f"micro-batches of a step ({knobs}.step_tokens / {knobs}.micro_batch_tokens)"
        )


def _at_least(lowest: int, knob: str, value: float) -> None:
    if value < lowest:
        raise InputError(f"{knob}={value} is less than {lowest}")


def _one_of(knob: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{knob}={value} is not one of {', '.join(choices)}")
