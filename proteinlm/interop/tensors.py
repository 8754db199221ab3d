"""Named tensors on their way from one layout to another, with an account of what was used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Size, Tensor, nn

from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead


class Found:
    """The tensors of a file by name; remembers which were taken."""

    def __init__(self, tensors: Mapping[str, Tensor], origin: Path) -> None:
        self.tensors, self.origin = tensors, origin
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: Size | tuple[int, ...]) -> Tensor:
        """The tensor `name` as float32; `InputError` if there is none or its shape is another."""
        if name not in self.tensors:
            raise InputError(f"{self.origin}: no tensor {name}")
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise InputError(f"{self.origin}: tensor {name} has shape {tuple(tensor.shape)}, not {tuple(shape)}")
        self.taken.add(name)
        return tensor.float().contiguous()

    @property
    def unused(self) -> list[str]:
        """Tensors that nobody took, with their shapes."""
        return [f"{name} {tuple(x.shape)}" for name, x in sorted(self.tensors.items()) if name not in self.taken]


def shapes(config: ModelConfig, *, head: bool) -> dict[str, Size]:
    """Shape of each tensor that `checkpoint.save_weights` names, of the backbone and, if asked, its language-model head."""
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {"backbone": Backbone(config)}
        if head:
            modules["head"] = LanguageModelHead(config)
    return {
        f"{prefix}.{name}": tensor.shape
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def first_line(error: Exception) -> str:
    """What an error of another library says, as far as it goes into our one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def new_directory(path: Path) -> Path:
    """`path`, made; `InputError` if it holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already there; name a new directory")
    path.mkdir(parents=True, exist_ok=True)
    return path
