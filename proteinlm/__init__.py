"""Protein language models, from pretraining to embeddings.

The names of this file are the public surface: ``from proteinlm import load``. Each is looked up when it is asked for, so
that importing `proteinlm.config` or the command line loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proteinlm.config import ModelConfig
    from proteinlm.errors import InputError
    from proteinlm.inference.embeddings import write_embeddings
    from proteinlm.inference.model import Model, load
    from proteinlm.models.backbone import Backbone

__all__ = ["Backbone", "InputError", "Model", "ModelConfig", "load", "write_embeddings"]

_HOMES = {
    "Backbone": "proteinlm.models.backbone",
    "InputError": "proteinlm.errors",
    "Model": "proteinlm.inference.model",
    "ModelConfig": "proteinlm.config",
    "load": "proteinlm.inference.model",
    "write_embeddings": "proteinlm.inference.embeddings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
