"""The shape of the backbone, or where to find one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from proteinlm.config.checks import at_least, below_one, one_of
from proteinlm.errors import InputError

LAYER_NORM_EPSILON = 1e-12  # --layernorm-epsilon of every published ProteinLM script


def max_scored_tokens(bf16: bool) -> int:
    """Tokens of the longest protein whose attention weights are all kept for the backward pass, on CPUs: up to there,
    matrix products are faster than PyTorch's attention kernel.
    """
    return 768 if bf16 else 128


@dataclass
class StartConfig:
    """The start of a fine-tuning: a shape with random weights, or pretrained weights, which know their shape."""


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

    @property
    def run_name(self) -> str:
        """Name of the run that left the weights in ``<run>/pretrain/model``; of any other directory, its own."""
        place = Path(self.path).absolute()
        return place.parents[1].name if place.name == "model" else place.name


@dataclass
class HuggingFaceConfig(PretrainedConfig):
    """An encoder in a directory of Hugging Face: ESM, BERT, MegatronBert or T5."""

    @property
    def run_name(self) -> str:
        """Name of the directory itself."""
        return Path(self.path).absolute().name


@dataclass
class ModelConfig(StartConfig):
    """Shape of the backbone (paper section 3.2; ProteinLM ``megatron/model/transformer.py``)."""

    hidden_size: int = MISSING
    num_layers: int = MISSING
    num_heads: int = MISSING
    max_positions: int = 2176
    """Tokens of the longest protein, [CLS] included: it has one residue less."""
    positions: str = "learned"
    """``learned``, a table of `max_positions` rows (paper), or ``rotary`` (RoFormer, arXiv 2104.09864), without one."""
    feed_forward: str = "gelu"
    """``gelu`` (paper), or ``gated`` (GeGLU, arXiv 2002.05202) with as many weights."""
    vocab_size: int = 128
    """Rows of the embedding; the 31 tokens and Megatron's padding."""
    dropout: float = 0.1
    """On the embedding and both residual branches. Attention weights are not dropped: the fast kernels cannot."""
    head_activation: str = "gelu_tanh"
    """GELU of the language-model head: ``gelu_tanh``, or ``gelu`` (erf) as in ProteinLM's released weights."""
    base_hidden_size: int = 0
    """Width that initial weights and learning rates are given for (`proteinlm.models.mup`); 0: this one's."""
    base_num_layers: int = 0
    """Depth that they are given for; 0: this one's."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "max_positions", "vocab_size"):
            at_least(1, f"model.{name}", getattr(self, name))
        if self.hidden_size % self.num_heads:
            raise InputError(f"model.num_heads={self.num_heads} does not divide model.hidden_size={self.hidden_size}")
        if self.vocab_size < 31:
            raise InputError(f"model.vocab_size={self.vocab_size} is smaller than the vocabulary of 31 tokens")
        if not 2 <= self.max_positions <= 65536:
            raise InputError(f"model.max_positions={self.max_positions} is not between 2 and 65536")
        below_one("model.dropout", self.dropout)
        one_of("model.head_activation", self.head_activation, ("gelu_tanh", "gelu"))
        one_of("model.positions", self.positions, ("learned", "rotary"))
        one_of("model.feed_forward", self.feed_forward, ("gelu", "gated"))
        for name in ("base_hidden_size", "base_num_layers"):
            at_least(0, f"model.{name}", getattr(self, name))
        if self.positions == "rotary" and self.head_dim % 2:
            raise InputError(
                f"model.positions=rotary turns pairs, and model.num_heads={self.num_heads} leaves a head dimension of "
                f"{self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def layer_norm_epsilon(self) -> float:
        """Added to the variance in each LayerNorm."""
        return LAYER_NORM_EPSILON

    @property
    def activation(self) -> str:
        """GELU of the blocks: ``gelu_tanh`` or ``gelu`` (erf)."""
        return "gelu_tanh"

    @property
    def intermediate_size(self) -> int:
        """Width inside the feed-forward network; gated ones have three matrices for two, and a third less."""
        if self.feed_forward == "gelu":
            return 4 * self.hidden_size
        unit = 64 if self.hidden_size >= 512 else 8  # that kernels and tensor parallelism want
        return unit * max(1, round(8 * self.hidden_size / 3 / unit))

    @property
    def block_matrices(self) -> int:
        """Weights in the matrices of a block."""
        feed_forward = 2 if self.feed_forward == "gelu" else 3
        return 4 * self.hidden_size**2 + feed_forward * self.hidden_size * self.intermediate_size

    @property
    def position_rows(self) -> int:
        """Rows of the table of positions; 0 without one."""
        return self.max_positions if self.positions == "learned" else 0

    @property
    def outer_norms(self) -> tuple[str, ...]:
        """The LayerNorms outside the blocks, by their names in the backbone."""
        return ("norm",)

    def training_flops(self, tokens: int, squares: int, targets: int) -> float:
        """Forward and backward over `tokens`, with `squares` the sum of squared protein lengths in tokens.

        Six per weight and token, ``12 L H`` per attended pair, and the head on the masked `targets` alone; only matrix
        products are counted, padding never occurs, and recomputation does not count.
        """
        hidden = self.hidden_size
        matrices = 6 * self.num_layers * self.block_matrices * tokens
        head = 6 * (hidden**2 + self.vocab_size * hidden) * targets
        return float(matrices + 12 * self.num_layers * hidden * squares + head)

    @property
    def parameters(self) -> int:
        """Trainable parameters with the language-model head: ``L(12H^2 + 13H) + (V + P + 2)H + H^2 + 3H + V`` (paper)."""
        hidden = self.hidden_size
        biases = (1 if self.feed_forward == "gelu" else 2) * self.intermediate_size + 5 * hidden
        blocks = self.num_layers * (self.block_matrices + biases + 4 * hidden)  # and two LayerNorms
        tables = (self.vocab_size + self.position_rows) * hidden
        return blocks + tables + 2 * hidden + hidden**2 + 3 * hidden + self.vocab_size

    def scaled_down(self, divisors: Mapping[str, int]) -> "ModelConfig":
        """Divide the shape. Width and heads must be divisible; layers round up, so that 3 / 4 gives 1."""
        for name, divisor in divisors.items():
            if name != "num_layers" and getattr(self, name) % divisor:
                raise InputError(f"scale.{name}={divisor} does not divide model.{name}={getattr(self, name)}")
        return replace(self, **{name: -(-getattr(self, name) // by) for name, by in divisors.items()})


@dataclass
class ForeignConfig(ModelConfig):
    """T5's encoder, run by transformers and read from its directory: never part of a run's config.

    `max_positions` is the longest protein and one, whatever tokens the encoder adds; FLOPs and the formula of
    `parameters` are those of a backbone of ours of the same size.
    """

    architecture: dict[str, Any] = field(default_factory=dict)
    """Its ``config.json``."""
    tokens: list[int] = field(default_factory=list)
    """Its token for each of ours."""
    prefix: list[int] = field(default_factory=list)
    """Tokens before the first residue: at most one."""
    suffix: list[int] = field(default_factory=list)
    """Tokens after the last residue."""

    def __post_init__(self) -> None:
        """Nothing to check: the encoder's own configuration is."""


@dataclass
class ScaleConfig:
    """Divisors that a profile applies to the model's shape, so that a paper row fits the machine."""

    hidden_size: int = 1
    num_layers: int = 1
    num_heads: int = 1

    def apply(self, model: ModelConfig) -> ModelConfig:
        """Divide the shape of `model`; each kind of model has its own `scaled_down`."""
        for name, divisor in asdict(self).items():
            at_least(1, f"scale.{name}", divisor)
        return model.scaled_down(asdict(self))
