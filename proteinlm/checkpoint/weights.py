"""Weights on disk: ``model.safetensors`` with ``config.json``, written and read without Lightning."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from proteinlm.checkpoint import published
from proteinlm.checkpoint.tensors import read_tensors
from proteinlm.config import ModelConfig
from proteinlm.config.baselines import shape_from
from proteinlm.errors import InputError
from proteinlm.models import huggingface, lora
from proteinlm.records.run_directory import SHAPE, WEIGHTS
from proteinlm.storage.atomic import write_text, written_whole
from proteinlm.storage.checksums import SUMS, check_sums, checksum_list
from proteinlm.storage.untrusted import read_json


def save_weights(directory: Path, modules: Mapping[str, nn.Module], config: ModelConfig) -> None:
    """Write ``model.safetensors`` and ``config.json``; tensor names are prefixed by the key of their module.

    All processes must call it if they divide the weights between them; the first writes, and alone holds them all.
    """
    writes = not distributed.is_initialized() or distributed.get_rank() == 0
    tensors: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, tensor in module.state_dict().items():
            tensor = tensor.detach()
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if writes:
                tensors[f"{prefix}.{name}"] = tensor.cpu().contiguous()
    if not writes:
        return
    save_tensors(directory, tensors, config)


def save_tensors(directory: Path, tensors: dict[str, Tensor], config: ModelConfig) -> None:
    """Write tensors that are named as `save_weights` names them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SUMS).unlink(missing_ok=True)
    with written_whole(directory / WEIGHTS) as file:
        file.write(save(tensors))
    write_text(directory / SHAPE, json.dumps(asdict(config), indent=2) + "\n")
    write_text(directory / SUMS, checksum_list([directory / WEIGHTS, directory / SHAPE]))


class Weights(NamedTuple):
    """What `save_weights` wrote."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    fingerprint: str
    """Twelve hexadecimal digits that identify the tensors."""
    origin: str
    """The directory, for messages."""


def load_weights(directory: Path) -> Weights:
    """Read what `save_weights` wrote to `directory`, or an encoder of Hugging Face: T5 gives backbone tensors alone.

    `InputError` if a file is missing or something else.
    """
    if published.is_published(directory):
        encoder = published.read(directory)
        return Weights(encoder.config, encoder.tensors, encoder.fingerprint, str(directory))
    if huggingface.is_foreign(directory):
        return Weights(*huggingface.read(directory), str(directory))
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    for name in (WEIGHTS, SHAPE):
        if not (directory / name).is_file():
            raise InputError(
                f"{directory}: no {name} in it, so no weights that this suite saved; a directory of Hugging Face has a "
                "config.json with a model_type"
            )
    file = directory / WEIGHTS
    seen = _version(file)
    with file.open("rb") as content:
        fingerprint = hashlib.file_digest(content, "sha256").hexdigest()
    if (directory / SUMS).exists():  # weights that came from elsewhere have none
        names = check_sums([directory / SUMS], {WEIGHTS: fingerprint})
        if not {WEIGHTS, SHAPE} <= names:
            raise InputError(f"{directory / SUMS}: damaged: it lacks {WEIGHTS} or {SHAPE}")
    try:
        config = shape_from(read_json(directory / SHAPE))
    except (ValueError, TypeError, InputError) as error:
        raise InputError(f"{directory / SHAPE}: not the shape of a model: {error}") from None
    try:
        tensors = read_tensors(file)
    except SafetensorError as error:
        raise InputError(f"{file}: damaged: {error}") from None
    if _version(file) != seen:  # a training run has put newer ones in its place
        return load_weights(directory)
    if adapter := lora.Adapter.load(directory):
        tensors = _beside_base(adapter, tensors, directory)
    return Weights(config, tensors, fingerprint[:12], str(directory))


def check(origin: Path | str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse tensors that are not those `wanted`, by name and shape; `origin` is named, and `prefix` before each name."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted:
            raise InputError(f"{origin}: {'an unknown' if name in found else 'no'} tensor {prefix}{name}")
        if found[name].shape != wanted[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
            raise InputError(f"{origin}: tensor {prefix}{name} has shape {shapes}")


def _beside_base(adapter: lora.Adapter, saved: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """The tensors of a model whose adapters alone were saved; `InputError` if what they belong to is not there."""
    if adapter.base and not Path(adapter.base).is_dir():
        raise InputError(
            f"{directory / lora.FILE}: made for the weights in {adapter.base}, which is not there: put them back, "
            "or write their new place into this file as base"
        )
    base = load_weights(Path(adapter.base)) if adapter.base else None
    if base and base.fingerprint != adapter.fingerprint:
        raise InputError(f"{directory / lora.FILE}: made for the weights that {adapter.base} held before")
    return lora.merge(saved, base.tensors if base else {}, adapter.scale)


def _version(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def restore(modules: Mapping[str, nn.Module], weights: Weights, *, share: bool = False) -> None:
    """Put saved weights into modules, named by their prefixes; `InputError` for a tensor missing, unknown or misshapen.

    Prefixes without a module are passed over. Modules that `share` the tensors take no memory for others; they may be on
    the meta device.
    """
    for prefix, module in modules.items():
        found = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in weights.tensors.items()
            if name.startswith(f"{prefix}.")
        }
        wanted = module.state_dict()
        check(weights.origin, found, wanted, f"{prefix}.")
        if share:
            found = {name: tensor.to(wanted[name].dtype) for name, tensor in found.items()}
        module.load_state_dict(found, assign=share)
