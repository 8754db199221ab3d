"""How a model is spread over processes; the model does not know."""

from lightning.pytorch.strategies import DDPStrategy, Strategy

from proteinlm.config import StrategyConfig


def strategy(config: StrategyConfig) -> Strategy | str:
    """The Lightning strategy that `config` names."""
    if config.name == "ddp":
        # the reduction sums gradients in buckets; views save a copy of all gradients
        return DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False)
    return "auto"
