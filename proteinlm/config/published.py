"""The shape of an encoder that others trained: read from its files, never part of a run's config."""

from dataclasses import dataclass, field

from proteinlm.config.checks import at_least, below_one, one_of
from proteinlm.config.model import ModelConfig
from proteinlm.errors import InputError

PUBLISHED = ("esm", "bert", "megatron-bert")
"""The names that Hugging Face gives these encoders (``model_type``): ESM-1b and ESM-2, BERT, MegatronBert."""


@dataclass
class PublishedConfig(ModelConfig):
    """ESM-1b, ESM-2, BERT (ProtBert, AntiBERTy) or MegatronBert, with what distinguishes each from ProteinLM's encoder.

    `max_positions` counts [CLS] and residues, not what closes a protein. `head_activation` is that of the blocks too.
    """

    head_activation: str = "gelu"
    family: str = ""
    """Which of `PUBLISHED`; saved with the weights."""
    feed_forward_size: int = 0
    epsilon: float = 1e-5
    """Added to the variance in each LayerNorm."""
    norm: str = "pre"
    """``pre``: LayerNorm before each half of a block, and one after the last; ``post``: after each residual sum."""
    embedding_norm: bool = False
    """Whether a LayerNorm follows the embeddings."""
    token_dropout: bool = False
    """Whether embeddings are scaled by the share of masks, as in ESM (`proteinlm.models.published.scale_by_masks`)."""
    tokens: list[int] = field(default_factory=list)
    """Its token for each of ours."""
    closing: list[int] = field(default_factory=list)
    """The token after the last residue, or none."""

    def __post_init__(self) -> None:
        one_of("family", self.family, PUBLISHED)
        for name in ("hidden_size", "num_layers", "num_heads", "vocab_size", "feed_forward_size"):
            at_least(1, name, getattr(self, name))
        at_least(2, "max_positions", self.max_positions)
        if self.hidden_size % self.num_heads:
            raise InputError(f"{self.num_heads} heads do not divide a hidden size of {self.hidden_size}")
        below_one("dropout", self.dropout)
        one_of("head_activation", self.head_activation, ("gelu_tanh", "gelu"))
        one_of("positions", self.positions, ("learned", "rotary"))
        one_of("norm", self.norm, ("pre", "post"))
        if self.positions == "rotary" and self.head_dim % 2:
            raise InputError(f"rotary positions turn pairs, and heads have {self.head_dim} numbers")
        if len(self.tokens) != 31 or len(self.closing) > 1:
            raise InputError(f"{len(self.tokens)} tokens for 31 of ours, and {len(self.closing)} after a protein")
        if not all(0 <= token < self.vocab_size for token in (*self.tokens, *self.closing)):
            raise InputError(f"a token of the vocabulary is not below {self.vocab_size}, the rows of the embedding")

    @property
    def layer_norm_epsilon(self) -> float:
        return self.epsilon

    @property
    def activation(self) -> str:
        return self.head_activation

    @property
    def intermediate_size(self) -> int:
        return self.feed_forward_size

    @property
    def position_rows(self) -> int:
        return self.max_positions + len(self.closing) if self.positions == "learned" else 0

    @property
    def outer_norms(self) -> tuple[str, ...]:
        return ("embedding_norm",) * self.embedding_norm + ("norm",) * (self.norm == "pre")

    @property
    def parameters(self) -> int:
        """Trainable parameters with the language-model head."""
        hidden, inner = self.hidden_size, self.intermediate_size
        blocks = self.num_layers * (self.block_matrices + inner + 9 * hidden)  # biases and two LayerNorms
        norms = 2 * hidden * len(self.outer_norms)
        return blocks + norms + (self.vocab_size + self.position_rows + hidden + 3) * hidden + self.vocab_size
