"""Initial weights and learning rates, carried from the shape they are given for to another. Imports no torch.

At one learning rate wide and deep models train worse than narrow and shallow ones, and a comparison of shapes compares how
well the rate suits each. Scaled as muP does in width (arXiv 2203.03466) and CompleteP in depth (arXiv 2505.01618), the
best rate of one shape is that of all. With m the ratio of widths and d that of depths to ``model.base_*``:

| | initial deviation | rate, AdamW | rate, Muon |
|:--|:--|:--|:--|
| matrices from the residual stream | m^-1/2 | m^-1 | m^-1/2 |
| matrices into it | m^-1/2 d^-1 | m^-1 d^-1 | m^-1/2 d^-1 |
| biases into it | | d^-1 | |
| matrix of the language-model head | m^-1/2 | m^-1 | |
| gain and bias of its LayerNorm | m^-1 (gain) | m^-1 | |
| embeddings, other gains and biases | 1 | 1 | |

The papers scale activations where this scales weights and rates, which comes to the same, since the updates do not depend
on the gradients' size, and leaves the forward pass as it is. Attention is scaled by the root of the head dimension, which
the fused kernels have built in, not by the dimension.
"""

from dataclasses import dataclass
from math import sqrt

from proteinlm.config import ModelConfig

INITIAL_STD = 0.02
"""The standard deviation of Megatron's initial weights."""

READING = ("attention.query_key_value", "feed_forward.up", "feed_forward.gate")
WRITING = ("attention.output", "feed_forward.down")
"""Layers of a block that read the residual stream, and that add to it."""


@dataclass(frozen=True)
class Ratios:
    """The ratios of a shape to its base."""

    width: float
    depth: float

    @classmethod
    def of(cls, config: ModelConfig) -> "Ratios":
        width = config.hidden_size / (config.base_hidden_size or config.hidden_size)
        return cls(width, config.num_layers / (config.base_num_layers or config.num_layers))


def initial_std(name: str, config: ModelConfig) -> float:
    """Standard deviation that the weight of a Linear or Embedding layer, by its name in the model, is drawn with.

    Without a base, N(0, 0.02), and 0.02 / sqrt(2 layers) on what adds to the residual stream (ProteinLM
    ``megatron/model/utils.py``).
    """
    ratios, layer = Ratios.of(config), name.rpartition(".")[0]
    if layer.endswith(WRITING):
        depth = config.base_num_layers or config.num_layers
        return INITIAL_STD / sqrt(2 * depth * ratios.width) / ratios.depth
    if layer.endswith((*READING, "dense")):
        return INITIAL_STD / sqrt(ratios.width)
    return INITIAL_STD


def initial_gain(config: ModelConfig) -> float:
    """Gain of the language-model head's LayerNorm, which the tied decoder's inputs are multiplied by."""
    return 1 / Ratios.of(config).width


def rate(name: str, config: ModelConfig, muon: bool) -> float:
    """The factor on the learning rate of the parameter called `name`; 1 without a base."""
    ratios, layer = Ratios.of(config), name.rpartition(".")[0]
    matrix = sqrt(ratios.width) if muon else ratios.width
    if layer.endswith(WRITING):
        return (1 / matrix if name.endswith("weight") else 1.0) / ratios.depth
    if layer.endswith(READING) or layer == "head.dense":
        return 1 / matrix if name.endswith("weight") else 1.0
    return 1 / ratios.width if layer == "head.norm" else 1.0
