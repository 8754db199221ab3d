"""How a model is trained, on what, and who watches."""

from dataclasses import dataclass
from typing import ClassVar

from proteinlm.config.baselines import BaselineConfig
from proteinlm.config.checks import at_least, below_one, one_of
from proteinlm.config.model import ModelConfig
from proteinlm.errors import InputError


@dataclass
class OptimConfig:
    """AdamW, linear warm-up and linear decay (ProteinLM ``megatron/learning_rates.py``; 1e-4 to 1e-5 in its scripts)."""

    matrices: str = "adamw"
    """What updates the matrices of the blocks: ``adamw`` (paper), or ``muon``, at the same learning rate."""
    learning_rate: float = 1e-4
    """After the warm-up."""
    min_learning_rate: float = 1e-5
    """At the end."""
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
        one_of("optim.matrices", self.matrices, ("adamw", "muon"))
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "epsilon", "max_grad_norm"):
            at_least(0, f"optim.{name}", getattr(self, name))
        for name in ("warmup_fraction", "beta1", "beta2"):
            below_one(f"optim.{name}", getattr(self, name))
        if self.min_learning_rate > self.learning_rate:
            raise InputError(
                f"optim.min_learning_rate={self.min_learning_rate} is above optim.learning_rate={self.learning_rate}"
            )


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
    """CPU threads per training process; 0 takes OMP_NUM_THREADS, or what Slurm gives a task, or a share of the physical
    cores that this process may run on."""
    accelerator: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    compile: bool = False
    """Let torch.compile fuse the blocks, in one graph for all sizes of batch: meant for GPUs. On CPUs it is no faster
    in fp32, and by about a twentieth in bf16, after a minute of compiling."""
    nonfinite: str = "stop"
    """What a loss or gradient that is not finite does: ``stop`` the run, or ``skip`` the step, which the result counts."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time, or an error where there is none. On CPU they do anyway."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_seconds", "workers", "threads"):
            at_least(0, f"train.{name}", getattr(self, name))
        one_of("train.precision", self.precision, ("auto", "fp32", "bf16-mixed"))
        one_of("train.accelerator", self.accelerator, ("auto", "cpu", "cuda"))
        one_of("train.nonfinite", self.nonfinite, ("stop", "skip"))


@dataclass
class BudgetConfig:
    """The length of a training and of its steps, in tokens: residues and one [CLS] per protein."""

    tokens: int = 10_000_000
    """Budget of the whole run; rounded up to whole steps."""
    step_tokens: int = 16_384
    """Global batch of one optimiser step, over all processes and micro-batches: the processes divide
    `step_tokens` / `micro_batch_tokens`."""
    micro_batch_tokens: int = 4_096
    """What one process computes at once; must hold the longest protein and divide `step_tokens`."""
    validations: int = 10
    """How often the validation sets are scored, evenly spread over the budget."""

    WHERE: ClassVar[str]
    """The section that the knobs are in, for messages."""

    def __post_init__(self) -> None:
        for name in ("tokens", "step_tokens", "micro_batch_tokens", "validations"):
            at_least(1, f"{self.WHERE}.{name}", getattr(self, name))
        if self.step_tokens % self.micro_batch_tokens:
            raise InputError(
                f"{self.WHERE}.micro_batch_tokens={self.micro_batch_tokens} does not divide "
                f"{self.WHERE}.step_tokens={self.step_tokens}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step, over all processes."""
        return self.step_tokens // self.micro_batch_tokens

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.step_tokens)


@dataclass
class TrainConfig(BudgetConfig, MachineConfig):
    """Pretraining: on what, for how long, and in what steps."""

    max_epochs: float = 0.0
    """Refuse to start if `tokens` are more epochs than this; 0: no limit."""
    validation_tokens: int = 0
    """Use the first proteins of each validation set, up to this many tokens; 0: all."""
    fp8: bool = False
    """Multiply the blocks' matrices in fp8, scaled tensor by tensor (torchao), and all else in bf16: for wide models on
    GPUs of compute capability 8.9 or newer, with `compile`. It changes the loss a little; weights and checkpoints stay
    fp32, and the next attempt may go on without it."""

    cuda_graphs: bool = False
    """Replay the forward and backward pass of a micro-batch as a CUDA graph: for narrow models, whose steps wait for
    launches. Batches are filled up to few shapes, for which dropout is drawn anew; else only rounding changes."""

    WHERE: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        MachineConfig.__post_init__(self)
        BudgetConfig.__post_init__(self)
        at_least(0, "train.max_epochs", self.max_epochs)
        at_least(0, "train.validation_tokens", self.validation_tokens)
        for knob in ("fp8", "cuda_graphs"):
            if getattr(self, knob) and self.precision == "fp32":
                raise InputError(f"train.{knob}=true computes in bf16: it excludes train.precision=fp32")

    def check(self, model: ModelConfig, strategy: "StrategyConfig") -> None:
        """Refuse options that do not go with `model` or `strategy`."""
        if self.fp8:
            _check_fp8(model, strategy)
        if self.cuda_graphs:
            _check_cuda_graphs(model, strategy)


FP8_MULTIPLE = 16
"""What the products of fp8 ask of the sides of a matrix."""


def _check_fp8(model: ModelConfig, strategy: "StrategyConfig") -> None:
    if isinstance(model, BaselineConfig):
        raise InputError(f"train.fp8=true multiplies the matrices of ProteinLM's encoder, not of {model.family}")
    for side in (model.hidden_size, model.intermediate_size):
        if side % FP8_MULTIPLE:
            raise InputError(
                f"model.hidden_size={model.hidden_size} gives matrices a side of {side}, and train.fp8=true needs multiples "
                f"of {FP8_MULTIPLE}"
            )
    if strategy.tensor_size > 1:
        raise InputError(f"strategy.name={strategy.name} cuts the matrices that train.fp8=true multiplies: take fsdp")


def _check_cuda_graphs(model: ModelConfig, strategy: "StrategyConfig") -> None:
    if isinstance(model, BaselineConfig):
        raise InputError(f"train.cuda_graphs=true records ProteinLM's encoder, not {model.family}")
    if strategy.name != "single":
        raise InputError(f"train.cuda_graphs=true adds up the gradients of one process: not strategy={strategy.name}")
    if strategy.activations != "keep":
        raise InputError(f"train.cuda_graphs=true cannot record strategy.activations={strategy.activations}: take keep")


STRATEGIES = ("single", "ddp", "ddp_sharded", "fsdp", "hsdp", "tensor", "fsdp_tensor")


@dataclass
class StrategyConfig:
    """How one model is spread over processes: ``nodes * devices`` of them."""

    name: str = "single"
    """``ddp`` copies the model to every process, and ``ddp_sharded`` divides its optimiser (ZeRO-1); ``fsdp`` divides
    weights, gradients and optimiser block by block, ``hsdp`` inside each of several replicas; ``tensor`` divides the
    matrices of a layer, and ``fsdp_tensor`` does both."""
    devices: int = 1
    """Processes on each node; on a GPU node, one per GPU."""
    nodes: int = 1
    """Started by Slurm, or by torchrun on each; a plain command starts processes on this machine alone."""
    tensor: int = 2
    """Processes that share the matrices of a layer, for ``fsdp_tensor``; ``tensor`` takes all."""
    replicas: int = 0
    """Copies of the model, for ``hsdp``; 0 makes one on each node."""
    activations: str = "keep"
    """Between forward and backward pass: ``keep``, ``recompute`` (all but each block's input is computed again), or
    ``recompute_offload`` (and that input waits in the host's memory)."""

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)
        one_of("strategy.activations", self.activations, ("keep", "recompute", "recompute_offload"))
        for knob, lowest in (("devices", 1), ("nodes", 1), ("tensor", 1), ("replicas", 0)):
            at_least(lowest, f"strategy.{knob}", getattr(self, knob))
        if self.name == "single" and self.processes > 1:
            raise InputError(f"strategy.devices={self.devices} and strategy.nodes={self.nodes} need strategy=ddp")
        if self.name == "fsdp_tensor" and self.devices % self.tensor:
            raise InputError(f"strategy.tensor={self.tensor} does not divide strategy.devices={self.devices}")
        if self.name == "hsdp" and self.processes % self.replica_count:
            raise InputError(
                f"strategy.replicas={self.replicas} does not divide the "
                f"strategy.devices * strategy.nodes = {self.processes} processes"
            )

    @property
    def processes(self) -> int:
        return self.devices * self.nodes

    @property
    def tensor_size(self) -> int:
        """Processes that share the matrices of a layer, and therefore a micro-batch."""
        return {"tensor": self.processes, "fsdp_tensor": self.tensor}.get(self.name, 1)

    @property
    def data_processes(self) -> int:
        """Processes, or groups of them, that compute different micro-batches."""
        return self.processes // self.tensor_size

    @property
    def replica_count(self) -> int:
        """Groups of processes that hold all the weights between them."""
        if self.name in ("fsdp", "fsdp_tensor"):
            return 1
        return (self.replicas or self.nodes) if self.name == "hsdp" else self.data_processes

    @property
    def shards(self) -> int:
        """Processes that divide the rows of each weight, or of its part, by FSDP."""
        if self.name == "hsdp":
            return self.processes // self.replica_count
        return self.data_processes if self.name in ("fsdp", "fsdp_tensor") else 1

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.name in ("fsdp", "hsdp", "tensor", "fsdp_tensor")

    def data_rank(self, rank: int) -> int:
        """Which of `data_processes` the process of global `rank` is in: those that share matrices are neighbours."""
        return rank // self.tensor_size

    def check(self, model: ModelConfig) -> None:
        """Refuse to divide `model` in a way, or more finely than its heads allow, or to recompute blocks that it lacks."""
        if isinstance(model, BaselineConfig):
            if self.tensor_size > 1:
                raise InputError(
                    f"strategy.name={self.name} cuts the matrices of ProteinLM's encoder, not of {model.family}"
                )
            if self.activations != "keep" and not model.BLOCKS:
                raise InputError(
                    f"strategy.activations={self.activations} recomputes blocks, which {model.family} has not"
                )
        if model.num_heads % self.tensor_size:
            knob = "strategy.tensor" if self.name == "fsdp_tensor" else "strategy.devices * strategy.nodes"
            raise InputError(f"{knob} = {self.tensor_size} does not divide model.num_heads={model.num_heads}")


@dataclass
class TrackingConfig:
    """Where metrics are sent besides ``metrics.csv`` and ``result.json``, which every run writes."""

    backend: str = "wandb"
    """``wandb`` (offline unless WANDB_MODE=online), ``csv`` (nothing besides) or ``none`` (no metrics.csv either)."""
    project: str = "proteinlm"
    """Of wandb."""

    def __post_init__(self) -> None:
        one_of("tracking.backend", self.backend, ("wandb", "csv", "none"))
