"""Model and optimiser on disk: checkpoints to go on from, and weights to keep. Loads without Lightning."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from proteinlm.checkpoint import sharded
from proteinlm.config import ModelConfig
from proteinlm.config.baselines import shape_from
from proteinlm.errors import InputError
from proteinlm.models import huggingface, lora
from proteinlm.storage.atomic import delete, write_text, written_whole
from proteinlm.storage.checksums import SUMS, check_seal, check_sums, listed
from proteinlm.storage.untrusted import read_json

DAMAGED = "damaged-"
"""Before the name of a checkpoint that was found to be so."""
WEIGHTS, SHAPE = "model.safetensors", "config.json"

KEPT = 2
"""Checkpoints of a run that stay on disk: the last and, should it prove damaged, the one before."""


WEIGHT, MOMENT = "weight/", "moment/"
"""Before the names of tensors in a sharded checkpoint: ``weight/<parameter>`` and ``moment/<parameter>/<which>``."""


def divided(weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a sharded checkpoint."""
    tensors = {f"{WEIGHT}{name}": tensor for name, tensor in weights.items()}
    return tensors | {f"{MOMENT}{name}/{key}": t for name, state in moments.items() for key, t in state.items()}


def undivided(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of Lightning's checkpoint that hold the `tensors` of a sharded one."""
    states: dict[str, dict[str, Tensor]] = {}
    for name in (name for name in tensors if name.startswith(MOMENT)):
        parameter, key = name.removeprefix(MOMENT).rsplit("/", 1)
        states.setdefault(parameter, {})[key] = tensors[name]
    group = {"params": list(range(len(states))), "names": list(states)}
    weights = {n.removeprefix(WEIGHT): tensor for n, tensor in tensors.items() if n.startswith(WEIGHT)}
    optimizer = {"state": dict(enumerate(states.values())), "param_groups": [group]}
    return {"state_dict": weights, "optimizer_states": [optimizer]}


def check(origin: Path | str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse tensors that are not those `wanted`, by name and shape; `origin` is named, and `prefix` before each name."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted:
            raise InputError(f"{origin}: {'an unknown' if name in found else 'no'} tensor {prefix}{name}")
        if found[name].shape != wanted[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
            raise InputError(f"{origin}: tensor {prefix}{name} has shape {shapes}")


def path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps belongs."""
    return directory / f"step-{step:09d}.ckpt"


def step_of(file: Path) -> int:
    """Optimiser steps done when `file` was written."""
    return int(file.stem.removeprefix("step-"))


def newest(directory: Path) -> Path | None:
    """The last checkpoint in `directory`, or None."""
    return max(directory.glob("step-*.ckpt"), default=None)


def last_good(directory: Path, *, reports: bool) -> Path | None:
    """The last checkpoint in `directory` that is as it was written, or None if there is none at all.

    Damaged ones after it are set aside, and named on standard error, by the process that `reports`; the others of a group
    come to the same outcome before, meanwhile and after. `InputError` if there are only damaged ones.
    """
    damaged: dict[Path, InputError] = {}
    for file in sorted(directory.glob("step-*.ckpt"), reverse=True):
        try:
            verify(file)
        except InputError as error:
            damaged[file] = error
            continue
        for old, error in damaged.items() if reports else ():
            print(f"{error}; going back to step {step_of(file)}", file=sys.stderr, flush=True)
            aside = old.with_name(f"{DAMAGED}{old.name}")
            delete(aside)
            old.rename(aside)
        return file
    for error in damaged.values():
        raise InputError(f"{error}; no other checkpoint is left: remove {directory} to start from the beginning")
    return None


def verify(file: Path) -> None:
    """Refuse a checkpoint that is not as it was written."""
    try:
        sharded.verify(file) if file.is_dir() else check_seal(file)
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror or error}") from None


def discard_old(directory: Path) -> None:
    """Delete all but the last `KEPT` checkpoints, damaged ones once there are so many good ones, and halves of any.

    Nothing may be being written.
    """
    found = sorted(directory.glob("step-*.ckpt"))
    for old in found[:-KEPT]:
        delete(old)
    for old in directory.glob(f"{DAMAGED}*") if len(found) >= KEPT else ():
        delete(old)
    for half in (*directory.glob(".step-*.partial"), *directory.glob(".step-*.old")):  # a killed process left it
        delete(half)


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
    write_text(directory / SUMS, listed([directory / WEIGHTS, directory / SHAPE]))


class Weights(NamedTuple):
    """What `save_weights` wrote."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    fingerprint: str
    """Twelve hexadecimal digits that identify the tensors."""
    origin: str
    """The directory, for messages."""


def load_weights(directory: Path) -> Weights:
    """Read what `save_weights` wrote to `directory`, or an encoder of Hugging Face, which gives backbone tensors alone.

    `InputError` if a file is missing or something else.
    """
    if huggingface.is_foreign(directory):
        return Weights(*huggingface.read(directory), str(directory))
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    for name in (WEIGHTS, SHAPE):
        if not (directory / name).is_file():
            raise InputError(f"{directory}: no {name} in it, so no weights that this suite saved")
    content = (directory / WEIGHTS).read_bytes()
    fingerprint = _sum(content)
    if (directory / SUMS).exists():  # weights that came from elsewhere have none
        names = check_sums([directory / SUMS], {WEIGHTS: fingerprint})
        if not {WEIGHTS, SHAPE} <= names:
            raise InputError(f"{directory / SUMS}: damaged: it lacks {WEIGHTS} or {SHAPE}")
    try:
        config = shape_from(read_json(directory / SHAPE))
    except (ValueError, TypeError, InputError) as error:
        raise InputError(f"{directory / SHAPE}: not the shape of a model: {error}") from None
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(f"{directory / WEIGHTS}: damaged: {error}") from None
    if adapter := lora.Adapter.load(directory):
        tensors = _beside_base(adapter, tensors, directory)
    return Weights(config, tensors, fingerprint[:12], str(directory))


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
    return lora.merged(saved, base.tensors if base else {}, adapter.scale)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def restore(modules: Mapping[str, nn.Module], weights: Weights) -> None:
    """Put saved weights into modules, named by their prefixes; `InputError` for a tensor missing, unknown or misshapen.

    Prefixes without a module are passed over.
    """
    for prefix, module in modules.items():
        found = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in weights.tensors.items()
            if name.startswith(f"{prefix}.")
        }
        check(weights.origin, found, module.state_dict(), f"{prefix}.")
        module.load_state_dict(found)


def best_of(directory: Path, step: int) -> Path:
    """Directory of the weights that were the best after `step` steps."""
    return directory / f"step-{step:09d}"


def discard_all_but(directory: Path, step: int) -> None:
    """Delete the weights of every other step."""
    for old in directory.glob("step-*"):
        if old != best_of(directory, step):
            shutil.rmtree(old)
