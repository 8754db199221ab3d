"""AdamW whose state is divided among the processes. The only importer of fairscale's optimiser."""

from typing import Any

from fairscale.optim import OSS

from proteinlm.optim import reorder_state
from proteinlm.optim.muon import MuonAdamW


class ShardedAdamW(OSS):
    """ZeRO-1 (arXiv 1910.02054): each process keeps the moments of some parameters, updates them and sends them round."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, optim=MuonAdamW, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(reorder_state(state_dict, self))
