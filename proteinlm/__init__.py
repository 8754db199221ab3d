"""Protein language models, from pretraining to embeddings.

``from proteinlm import Backbone, ModelConfig, load``; names are looked up when they are asked for, so that importing
`proteinlm.config` or the command line loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proteinlm.config import ModelConfig
    from proteinlm.inference.model import load
    from proteinlm.models.backbone import Backbone

__all__ = ["Backbone", "ModelConfig", "load"]

_HOMES = {
    "Backbone": "proteinlm.models.backbone",
    "ModelConfig": "proteinlm.config",
    "load": "proteinlm.inference.model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
