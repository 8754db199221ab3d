"""Named tensors of a file, and their conversion from one layout to another, with an account of which were used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Size, Tensor, nn

from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.models import registry

PIECE = 2**26
"""Bytes, about, that are read of a file before it is opened again."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each in memory of its own; raises `SafetensorError` if the file is damaged.

    safetensors maps the whole file, and what is read of the mapping counts beside the tensors until it is closed.
    """
    with safe_open(file, "pt") as opened:
        left = list(opened.keys())
    tensors: dict[str, Tensor] = {}
    while left:
        size = 0
        with safe_open(file, "pt") as opened:
            while left and size < PIECE:
                name = left.pop()
                tensors[name] = opened.get_tensor(name).clone()
                size += tensors[name].nbytes
    return tensors


class SourceTensors:
    """The tensors of a file by name, of which each can be taken once, so that what is made of it may take its memory."""

    def __init__(self, tensors: Mapping[str, Tensor], origin: Path) -> None:
        self.tensors, self.origin = dict(tensors), origin

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: Size | tuple[int, ...]) -> Tensor:
        """Take the tensor `name` as float32; raises `InputError` if there is none or its shape is another."""
        if name not in self.tensors:
            raise InputError(f"{self.origin}: no tensor {name}")
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise InputError(f"{self.origin}: tensor {name} has shape {tuple(tensor.shape)}, not {tuple(shape)}")
        del self.tensors[name]
        return tensor.float().contiguous()

    @property
    def unused(self) -> list[str]:
        """The names and shapes of the tensors that were not taken."""
        return [f"{name} {tuple(x.shape)}" for name, x in sorted(self.tensors.items())]


def shapes(config: ModelConfig, *, head: bool) -> dict[str, Size]:
    """The shape of each tensor of a backbone and, if asked, its head, named as `checkpoint.save_weights` does."""
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {"backbone": registry.build(config)}
        if head:
            modules["head"] = registry.language_model_head(config)
    return {
        f"{prefix}.{name}": tensor.shape
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def new_directory(path: Path) -> Path:
    """Make the directory `path`; raises `InputError` if it holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already there; name a new directory")
    path.mkdir(parents=True, exist_ok=True)
    return path
