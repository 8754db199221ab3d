"""Adapters: small matrices that are trained beside a frozen backbone."""

from dataclasses import dataclass, field

from proteinlm.config.checks import above, at_least, below_one
from proteinlm.errors import InputError

MATRICES = ("query_key_value", "output", "up", "down")
"""Of a block: of the attention, and of the feed-forward layer."""


@dataclass
class AdapterConfig:
    """No adapter: the backbone itself is trained, or not (``task.freeze``)."""

    name: str = "none"


@dataclass
class LoraConfig(AdapterConfig):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): ``W + alpha / rank * B A`` in place of W, A and B trained."""

    name: str = "lora"
    rank: int = 8
    """Columns of B, and rows of A."""
    alpha: float = 16.0
    dropout: float = 0.0
    """On what A reads, in training."""
    matrices: list[str] = field(default_factory=lambda: list(MATRICES))
    """Of each block: ``query_key_value``, ``output``, ``up``, ``down``, or the ends of other names of linear layers."""

    def __post_init__(self) -> None:
        at_least(1, "adapter.rank", self.rank)
        above(0, "adapter.alpha", self.alpha)
        below_one("adapter.dropout", self.dropout)
        if not self.matrices:
            raise InputError(f"adapter.matrices is empty: name some of {', '.join(MATRICES)}")
