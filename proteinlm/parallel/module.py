"""A LightningModule that can be divided, without a word about how."""

from collections.abc import Callable

import lightning as L
import torch
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from proteinlm.parallel.deferred_init import Draws


class SpreadModule(L.LightningModule):
    """What `Arrangement` divides."""

    arranged = False
    draws: Draws | None = None
    """What fills the parameters, if they have no memory yet."""
    make_optimizer: Callable[..., Optimizer] | None = None
    """What makes the optimiser under the strategy, from parameter groups and settings; None: `MuonAdamW`."""
    data_group: ProcessGroup | None = None
    """The processes that compute different micro-batches; None: all."""

    def configure_model(self) -> None:
        """Nothing: `Arrangement` has done it, but Lightning wants this method under sharded strategies."""


def data_processes(group: ProcessGroup | None) -> int:
    """Processes of `group` (None: of all) that computed different micro-batches."""
    return torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1
