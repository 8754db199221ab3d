"""AdamW with decay on matrices only, linear warm-up and linear decay (ProteinLM's published recipe)."""

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from proteinlm.config import OptimConfig


def build(module: nn.Module, config: OptimConfig, steps: int) -> tuple[AdamW, LambdaLR]:
    """The optimiser of `module` and its schedule over `steps` optimiser steps.

    Biases and LayerNorms are not decayed, embeddings are, as in Megatron.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    optimizer = AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    return optimizer, LambdaLR(optimizer, lambda done: learning_rate(config, done + 1, steps) / config.learning_rate)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Rate of the `step`-th of `steps` updates, counted from 1 (``megatron/learning_rates.py``)."""
    warmup = config.warmup_fraction * steps
    if step <= warmup:
        return config.learning_rate * step / warmup
    remaining = (steps - step) / (steps - warmup)
    return config.min_learning_rate + remaining * (config.learning_rate - config.min_learning_rate)
