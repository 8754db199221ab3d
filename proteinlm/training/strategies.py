"""From a strategy's name to a divided model in Lightning.

`strategy` is what the Trainer is given, `Arrangement` divides the model before training and validation, and `adamw` is
the optimiser that goes with both.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.optim import Optimizer
from torchmetrics import Metric

from proteinlm.config import StrategyConfig
from proteinlm.models.registry import BLOCKS
from proteinlm.optim.muon import MuonAdamW
from proteinlm.parallel.divide import copy_part, divide
from proteinlm.parallel.fp8 import multiply_in_fp8
from proteinlm.parallel.module import SpreadModule
from proteinlm.parallel.recompute import recompute, recompute_offloaded
from proteinlm.training.sharded import Sharded


class DataParallel(DDPStrategy):
    """Data parallel; all processes go on from the checkpoint that the first has chosen."""

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return super().load_checkpoint(self.broadcast(checkpoint_path), weights_only)


class ShardedOptimizer(DataParallel):
    """Data parallel; each process updates a part of the weights and sends it to the others (ZeRO-1, fairscale's OSS)."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        from fairscale.internal.params import recursive_copy_to_device
        from fairscale.optim import OSS

        inner = getattr(optimizer, "_optimizer", optimizer)  # out of Lightning's wrapper
        assert isinstance(inner, OSS)
        # in place of consolidate_state_dict, which sends every part to every process, and onto the sender's GPU
        own = recursive_copy_to_device(inner.optim.state_dict(), non_blocking=False, device=torch.device("cpu"))
        parts: list[Any] | None = [None] * self.world_size if self.is_global_zero else None
        torch.distributed.gather_object(own, parts)
        if parts is None:
            return {}
        inner._all_states = parts
        return inner.state_dict()


class Arrangement(L.Callback):
    """Divides a model as `config` says, once the processes have met and before the optimiser is made."""

    def __init__(self, config: StrategyConfig, compiled: bool = False, fp8: bool = False) -> None:
        self.config, self.compiled, self.fp8 = config, compiled, fp8

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, SpreadModule)
        if not pl_module.is_arranged:
            arrange(pl_module, self.config, trainer.strategy, self.compiled, self.fp8)
            pl_module.is_arranged = True
        pl_module.make_optimizer = adamw(trainer.strategy)
        group = trainer.strategy.data_group if isinstance(trainer.strategy, Sharded) else None
        pl_module.data_group = group
        for module in pl_module.modules():
            if isinstance(module, Metric):
                module.process_group = group


def arrange(
    module: nn.Module, config: StrategyConfig, strategy: Strategy, compiled: bool = False, fp8: bool = False
) -> None:
    """Choose how blocks multiply and what they keep, compile them, and divide the model; from the inside out."""
    blocks = [block for block in module.modules() if isinstance(block, BLOCKS)]
    if fp8:
        multiply_in_fp8(blocks)
    wrap = {"keep": None, "recompute": recompute, "recompute_offload": recompute_offloaded}[config.activations]
    if wrap:
        for block in blocks:
            wrap(block)
    if compiled:
        for block in blocks:
            block.compile(dynamic=True)  # sizes of batches vary
    if isinstance(strategy, Sharded):
        divide(module, blocks, strategy.mesh)
        if isinstance(module, SpreadModule) and module.init_recorder:
            module.init_recorder.materialise(module, strategy.root_device, copy_part)
            module.init_recorder = None


def strategy(config: StrategyConfig) -> Strategy | str:
    """The Lightning strategy that `config` names."""
    if config.name in ("ddp", "ddp_sharded"):
        kind = DataParallel if config.name == "ddp" else ShardedOptimizer
        # the reduction sums gradients in buckets; views save a copy of all gradients
        return kind(gradient_as_bucket_view=True, broadcast_buffers=False)
    return Sharded(config) if config.sharded else "auto"


def adamw(strategy: Strategy) -> Callable[..., Optimizer]:
    """What makes the optimiser under a strategy, from parameter groups and settings."""
    if isinstance(strategy, ShardedOptimizer):
        from proteinlm.training.sharded_optimizer import ShardedAdamW

        return ShardedAdamW
    return MuonAdamW
