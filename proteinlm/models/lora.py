"""Low-rank adapters beside a backbone that stays as it is. The only importer of peft.

While it trains, an adapted backbone is peft's. Saved are the two factors of each matrix, and what the start does not have;
who reads them gets the sums, under the backbone's own names, and needs no peft.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.config import LoraConfig
from proteinlm.errors import InputError
from proteinlm.models.silence import silence_torchao
from proteinlm.storage.atomic import write_text

FILE = "adapter.json"
FIRST, SECOND = ".lora_A", ".lora_B"
"""After the name of a layer, in saved weights: A (rank, inputs) and B (outputs, rank)."""
_FIRST, _SECOND = ".lora_A.default.weight", ".lora_B.default.weight"  # in peft
_BASE = ".base_layer."

ENDINGS = {
    "query_key_value": tuple(f"self.{name}" for name in ("query", "key", "value"))
    + tuple(f"SelfAttention.{name}" for name in "qkv"),
    "output": ("attention.output.dense", "SelfAttention.o"),
    "up": ("intermediate.dense", *(f"DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1"))),
    "down": ("output.dense", "DenseReluDense.wo"),
}
"""The names of these matrices in encoders of Hugging Face: BERT and ESM, and T5."""


@dataclass(frozen=True)
class Adapter:
    """The description that is written beside saved factors."""

    config: LoraConfig
    base: str
    """Directory of the weights they are beside; empty if those are saved with them."""
    fingerprint: str
    """The fingerprint of the base weights."""

    @property
    def scale(self) -> float:
        return self.config.alpha / self.config.rank

    def save(self, directory: Path) -> None:
        write_text(directory / FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "Adapter | None":
        """The adapter that `save` wrote; None if there is none. Raises `InputError` for any other content."""
        file = directory / FILE
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_bytes())
            return cls(LoraConfig(**values.pop("config")), **values)
        except (ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            raise InputError(f"{file}: not an adapter: {error}") from None


class Factors(nn.Module):
    """The part of an adapted backbone that is saved."""

    def __init__(self, backbone: nn.Module, with_base: bool) -> None:
        super().__init__()
        self.backbone = (backbone,)  # a tuple hides it: these are no weights of ours
        self.with_base = with_base

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The factors, and the backbone's own tensors if they are nowhere else."""
        kept: dict[str, Tensor] = {}
        for name, tensor in self.backbone[0].state_dict().items():
            if name.endswith((_FIRST, _SECOND)):
                kept[name.replace(_FIRST, FIRST).replace(_SECOND, SECOND)] = tensor
            elif self.with_base:
                kept[name.replace(_BASE, ".")] = tensor
        return kept


def adapt(backbone: nn.Module, config: LoraConfig) -> None:
    """Put factors beside the matrices of `backbone`, and train nothing else in it.

    A is drawn at random and B zero, so that nothing changes at first. `InputError` without peft, and for a matrix that
    the backbone does not have.
    """
    layers = layers_of(backbone, config.matrices)
    peft = _peft()
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=layers, bias="none"
    )
    peft.inject_adapter_in_model(settings, backbone)


def layers_of(backbone: nn.Module, matrices: list[str]) -> list[str]:
    """The names of the linear layers that `matrices` stand for."""
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    found = []
    for matrix in matrices:
        ours = [name for name in linear if any(_ends(name, end) for end in (matrix, *ENDINGS.get(matrix, ())))]
        if matrix == "down":
            ours = [name for name in ours if not name.endswith("attention.output.dense")]
        if not ours:
            names = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise InputError(f"adapter.matrices: the model has no {matrix}; its linear layers are {', '.join(names)}")
        found += ours
    return list(dict.fromkeys(found))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def merge(saved: Mapping[str, Tensor], base: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The tensors of a model: the saved ones and those of `base`, with ``W + scale * B A`` where there are factors."""
    tensors = {name: tensor for name, tensor in base.items() if name.startswith("backbone.")}
    tensors |= {name: tensor for name, tensor in saved.items() if not name.endswith((FIRST, SECOND))}
    for name in (name for name in saved if name.endswith(FIRST)):
        layer = name.removesuffix(FIRST)
        with torch.no_grad():
            tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] + scale * (saved[f"{layer}{SECOND}"] @ saved[name])
    return tensors


def _peft() -> Any:
    silence_torchao()
    try:
        import peft
    except ImportError:
        raise InputError("adapter=lora needs peft: pip install 'proteinlm[adapters]'") from None
    return peft
