"""A LightningModule that a strategy can divide among processes; the module does not know how."""

from collections.abc import Callable

import lightning as L
import torch
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from proteinlm.parallel.deferred_init import InitRecorder


class SpreadModule(L.LightningModule):
    """A LightningModule that `Arrangement` can divide."""

    is_arranged = False
    """Whether `Arrangement` has divided the model."""
    init_recorder: InitRecorder | None = None
    """The recorded initial values of the parameters, as long as those have no memory."""
    make_optimizer: Callable[..., Optimizer] | None = None
    """Makes the optimiser under the strategy, from parameter groups and settings; None: `MuonAdamW`."""
    data_group: ProcessGroup | None = None
    """The processes that compute different micro-batches; None: all."""

    def configure_model(self) -> None:
        """Do nothing: `Arrangement` has divided the model, but Lightning wants this method under sharded strategies."""


def data_processes(group: ProcessGroup | None) -> int:
    """The number of processes in `group` (None: all) that compute different micro-batches."""
    return torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1
