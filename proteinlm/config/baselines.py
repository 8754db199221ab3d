"""Shapes of the backbones that ProteinLM is compared with: TAPE's (arXiv 1906.08230) and two forerunners.

Each counts its own parameters, tensor by tensor, and its own work, so that plans and records of all rows mean the same.

H hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar

from proteinlm.config.checks import at_least, below_one
from proteinlm.config.model import ForeignConfig, ModelConfig
from proteinlm.config.published import PUBLISHED, PublishedConfig
from proteinlm.errors import InputError

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

TRIGRAM_LETTERS = 23
"""Of ProtVec: the 20 amino acids, any other residue, [MASK], and nothing, beyond the ends."""


@dataclass
class BaselineConfig(ModelConfig, ABC):
    """The base of all comparison backbones: ProteinLM's vocabulary without Megatron's padding, BERT's language-model head.

    `hidden_size` is the width of the states that heads read. Knobs of ProteinLM's encoder alone must keep their values.
    """

    num_heads: int = 0
    """Of attention, where there is any."""
    max_positions: int = 2176
    """The longest protein has one residue less, whether there is a table of positions or not: all rows see the same."""
    vocab_size: int = 31
    head_activation: str = "gelu"
    family: str = ""
    """Which of `FAMILIES`; saved with the weights."""

    TIED: ClassVar[bool] = False
    """Whether the language-model head decodes by the token table, which must be as wide as the states."""
    BLOCKS: ClassVar[bool] = False
    """Whether there is a stack of alike blocks, which can be recomputed one by one."""
    OWN: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_layers",
        "num_heads",
        "max_positions",
        "vocab_size",
        "dropout",
    )

    def __post_init__(self) -> None:
        if self.family != type(self).family:
            raise InputError(f"model.family={self.family} is not {type(self).family}: choose another by model=...")
        for name in ("hidden_size", "num_layers", "max_positions"):
            at_least(1, f"model.{name}", getattr(self, name))
        if not 2 <= self.max_positions <= 65536:
            raise InputError(f"model.max_positions={self.max_positions} is not between 2 and 65536")
        if self.vocab_size < 31:
            raise InputError(f"model.vocab_size={self.vocab_size} is smaller than the vocabulary of 31 tokens")
        below_one("model.dropout", self.dropout)
        at_least(0, "model.num_heads", self.num_heads)
        for known in fields(ModelConfig):
            value = getattr(self, known.name)
            if known.name not in (*self.OWN, "head_activation") and value != known.default:
                raise InputError(f"model.{known.name}={value} is a knob of ProteinLM's encoder, not of {self.family}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads if self.num_heads else 0

    def scaled_down(self, divisors: Mapping[str, int]) -> "BaselineConfig":
        """The smaller shape, with ``embedding_size`` in proportion to the width."""
        smaller = super().scaled_down(divisors)
        assert isinstance(smaller, BaselineConfig)
        if "embedding_size" not in {known.name for known in fields(self)}:
            return smaller
        return replace(smaller, embedding_size=-(-vars(self)["embedding_size"] // divisors["hidden_size"]))

    @abstractmethod
    def backbone_tensors(self) -> Named:
        """Name and shape of each parameter of the backbone, in the order of the module."""

    def tensors(self) -> dict[str, Shape]:
        """Shapes of all parameters by name, with the language-model head."""
        hidden, vocabulary = self.hidden_size, self.vocab_size
        found = {f"backbone.{name}": shape for name, shape in self.backbone_tensors()}
        found["head.bias"] = (vocabulary,)
        if not self.TIED:
            found["head.decoder"] = (vocabulary, hidden)
        return found | dict((*linear("head.dense", hidden, hidden), *norm("head.norm", hidden)))

    @property
    def parameters(self) -> int:
        """Trainable parameters with the language-model head."""
        return sum(prod(shape) for shape in self.tensors().values())

    @property
    @abstractmethod
    def products(self) -> int:
        """The number of weights of the backbone that each token is multiplied with."""

    @property
    @abstractmethod
    def activations_per_token(self) -> int:
        """The number of values per token that a layer saves for the backward pass."""

    def training_flops(self, tokens: int, squares: int, targets: int) -> float:
        """Forward and backward over `tokens`; six for each weight and token, and the head on the masked `targets` alone.

        A state that follows another in time waits for it, which this does not see: recurrent ones are slower than it says.
        """
        head = 6 * (self.hidden_size**2 + self.vocab_size * self.hidden_size) * targets
        return float(6 * self.products * tokens + head)


@dataclass
class OneHotConfig(BaselineConfig):
    """The residues themselves: nothing to learn."""

    hidden_size: int = 31
    num_layers: int = 1
    dropout: float = 0.0
    family: str = "one_hot"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size != self.vocab_size:
            raise InputError(
                f"model.hidden_size={self.hidden_size} is not model.vocab_size={self.vocab_size}, as one-hot states are"
            )

    def scaled_down(self, divisors: Mapping[str, int]) -> "BaselineConfig":
        """The same: a vocabulary has no smaller shape."""
        return self

    def backbone_tensors(self) -> Named:
        yield from ()

    @property
    def products(self) -> int:
        return 0

    @property
    def activations_per_token(self) -> int:
        return 0


@dataclass
class LSTMConfig(BaselineConfig):
    """TAPE's LSTM: a stack that reads forward and one that reads in reverse, side by side."""

    embedding_size: int = 128
    family: str = "lstm"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "model.embedding_size", self.embedding_size)
        if self.hidden_size % 2:
            raise InputError(f"model.hidden_size={self.hidden_size} is odd, and each direction has half of it")

    @property
    def direction_size(self) -> int:
        """Width of one direction."""
        return self.hidden_size // 2

    def backbone_tensors(self) -> Named:
        width = self.direction_size
        yield "token_embedding.weight", (self.vocab_size, self.embedding_size)
        for direction in ("ahead", "back"):
            for layer, inputs in enumerate(self._inputs()):
                name = f"{direction}.{layer}"
                yield f"{name}.weight_ih_l0", (4 * width, inputs)
                yield f"{name}.weight_hh_l0", (4 * width, width)
                yield f"{name}.bias_ih_l0", (4 * width,)
                yield f"{name}.bias_hh_l0", (4 * width,)

    @property
    def products(self) -> int:
        width = self.direction_size
        return sum(2 * 4 * width * (inputs + width) for inputs in self._inputs())

    @property
    def activations_per_token(self) -> int:
        return 2 * 16 * self.direction_size  # measured: gates before and after, cells, outputs, and copies by step

    def _inputs(self) -> list[int]:
        return [self.embedding_size] + [self.direction_size] * (self.num_layers - 1)


@dataclass
class ResNetConfig(BaselineConfig):
    """TAPE's residual network: blocks of two convolutions along the protein."""

    kernel_size: int = 3
    """Residues that a convolution sees; odd."""
    dilation: int = 1
    """Distance between them."""
    family: str = "resnet"

    TIED: ClassVar[bool] = True
    BLOCKS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "model.kernel_size", self.kernel_size)
        at_least(1, "model.dilation", self.dilation)
        if self.kernel_size % 2 == 0:
            raise InputError(f"model.kernel_size={self.kernel_size} is even, and so has no middle")
        if self.hidden_size % 2:
            raise InputError(f"model.hidden_size={self.hidden_size} is odd, and positions are sines and cosines")

    def backbone_tensors(self) -> Named:
        hidden = self.hidden_size
        yield "token_embedding.weight", (self.vocab_size, hidden)
        yield from norm("norm", hidden)
        for block in (f"blocks.{number}" for number in range(self.num_layers)):
            for half in ("first", "second"):
                yield f"{block}.{half}.weight", (hidden, hidden, self.kernel_size)
                yield from norm(f"{block}.{half}_norm", hidden)

    @property
    def products(self) -> int:
        return 2 * self.num_layers * self.kernel_size * self.hidden_size**2

    @property
    def activations_per_token(self) -> int:
        return 9 * self.hidden_size  # inputs of both convolutions, norms and GELUs, and copies with channels first


@dataclass
class PostNormConfig(BaselineConfig):
    """BERT as it was: each LayerNorm after its residual sum (TAPE's Transformer)."""

    family: str = "post_norm"

    TIED: ClassVar[bool] = True
    BLOCKS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "model.num_heads", self.num_heads)
        if self.hidden_size % self.num_heads:
            raise InputError(f"model.num_heads={self.num_heads} does not divide model.hidden_size={self.hidden_size}")

    def backbone_tensors(self) -> Named:
        hidden, inner = self.hidden_size, self.intermediate_size
        yield "token_embedding.weight", (self.vocab_size, hidden)
        yield "position_embedding.weight", (self.max_positions, hidden)
        yield from norm("norm", hidden)
        for block in (f"blocks.{number}" for number in range(self.num_layers)):
            yield from linear(f"{block}.query_key_value", hidden, 3 * hidden)
            yield from linear(f"{block}.output", hidden, hidden)
            yield from norm(f"{block}.attention_norm", hidden)
            yield from linear(f"{block}.up", hidden, inner)
            yield from linear(f"{block}.down", inner, hidden)
            yield from norm(f"{block}.feed_forward_norm", hidden)

    @property
    def products(self) -> int:
        return 12 * self.num_layers * self.hidden_size**2

    @property
    def activations_per_token(self) -> int:
        dropped = self.hidden_size // 2 if self.dropout else 0  # two masks of one byte
        return 16 * self.hidden_size + dropped  # as ProteinLM's

    def training_flops(self, tokens: int, squares: int, targets: int) -> float:
        """As of ProteinLM's encoder: ``12 L H`` per attended pair beside the products."""
        return super().training_flops(tokens, squares, targets) + 12 * self.num_layers * self.hidden_size * squares


@dataclass
class UniRepConfig(BaselineConfig):
    """UniRep's multiplicative LSTM (Alley et al. 2019), which reads forward only."""

    num_layers: int = 1
    embedding_size: int = 10
    dropout: float = 0.0
    family: str = "unirep"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "model.embedding_size", self.embedding_size)
        if self.num_layers != 1:
            raise InputError(f"model.num_layers={self.num_layers}: UniRep has one")

    def scaled_down(self, divisors: Mapping[str, int]) -> "BaselineConfig":
        """The smaller shape; its width, which few numbers divide, rounds up."""
        return replace(self, hidden_size=-(-self.hidden_size // divisors["hidden_size"]))

    def backbone_tensors(self) -> Named:
        hidden, inputs = self.hidden_size, self.embedding_size
        yield "bias", (4 * hidden,)
        yield "token_embedding.weight", (self.vocab_size, inputs)
        for name, rows, columns in (
            ("input_factor", hidden, inputs),
            ("state_factor", hidden, hidden),
            ("input_gates", 4 * hidden, inputs),
            ("state_gates", 4 * hidden, hidden),
        ):
            yield f"{name}.direction", (rows, columns)
            yield f"{name}.gain", (rows,)

    @property
    def products(self) -> int:
        return 5 * self.hidden_size * (self.hidden_size + self.embedding_size)

    @property
    def activations_per_token(self) -> int:
        return 11 * self.hidden_size  # gates, factors and their product, cell, its tanh, state, output


@dataclass
class ProtVecConfig(BaselineConfig):
    """ProtVec (Asgari and Mofrad 2015): a vector for each 3-gram of residues."""

    hidden_size: int = 100
    num_layers: int = 1
    dropout: float = 0.0
    family: str = "protvec"

    def scaled_down(self, divisors: Mapping[str, int]) -> "BaselineConfig":
        """The same: a table costs a look-up, however wide."""
        return self

    def backbone_tensors(self) -> Named:
        yield "trigrams.weight", (TRIGRAM_LETTERS**3, self.hidden_size)

    @property
    def products(self) -> int:
        return 0

    @property
    def activations_per_token(self) -> int:
        return 0


FAMILIES: dict[str, type[BaselineConfig]] = {
    kind.family: kind for kind in (OneHotConfig, LSTMConfig, ResNetConfig, PostNormConfig, UniRepConfig, ProtVecConfig)
}


def shape_from(values: Mapping[str, Any]) -> ModelConfig:
    """The shape that ``asdict`` made `values` of; `TypeError` or `InputError` if it was none."""
    if "architecture" in values:
        return ForeignConfig(**values)
    family = values.get("family")
    if family in PUBLISHED:
        return PublishedConfig(**values)
    if family is not None and family not in FAMILIES:
        raise InputError(f"family {family} is not one of {', '.join((*FAMILIES, *PUBLISHED))}")
    return (FAMILIES[family] if family else ModelConfig)(**values)


def family_of(config: ModelConfig) -> str:
    """The kind of backbone that a shape belongs to, for records."""
    if isinstance(config, ForeignConfig):
        return str(config.architecture["model_type"])
    return config.family if isinstance(config, BaselineConfig | PublishedConfig) else "proteinlm"


def linear(name: str, inputs: int, outputs: int) -> Named:
    """Names and shapes of a Linear layer."""
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Named:
    """Names and shapes of a LayerNorm."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
