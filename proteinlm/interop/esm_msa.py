"""Imports the MSA Transformer of fair-esm, ``esm_msa1b_t12_100M_UR50S.pt`` and its like; nothing in it is executed.

The regression of contacts is in a file of its own, ``<name>-contact-regression.pt``, which is found beside the other.
"""

import json
import pickle
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from proteinlm.checkpoint.tensors import SourceTensors, new_directory
from proteinlm.errors import InputError, first_line
from proteinlm.models.msa_transformer import PAD, MSATransformer, Shape
from proteinlm.records.run_directory import SHAPE, WEIGHTS
from proteinlm.storage.atomic import write_text, written_whole
from proteinlm.storage.untrusted import read_json

FAMILY = "msa_transformer"
_SUFFIX = "-contact-regression"
_PREFIXES = ("encoder.", "sentence_encoder.")
_NAMES = {
    "tokens": "embed_tokens",
    "positions": "embed_positions",
    "norm_before": "emb_layer_norm_before",
    "norm_after": "emb_layer_norm_after",
    "head_dense": "lm_head.dense",
    "head_norm": "lm_head.layer_norm",
    "contacts": "contact_head.regression",
    "row_norm": "row_self_attention.layer_norm",
    "column_norm": "column_self_attention.layer_norm",
    "feed_forward_norm": "feed_forward_layer.layer_norm",
    "up": "feed_forward_layer.layer.fc1",
    "down": "feed_forward_layer.layer.fc2",
}
_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


def import_checkpoint(source: Path, target: Path) -> Shape:
    """Write the weights in the file `source` to the new directory `target`, as `load_model` reads them.

    Raises `InputError` for what is no MSA Transformer of fair-esm, and where the regression of contacts is missing.
    """
    content = _load(source)
    arguments = content.get("args")
    if not isinstance(arguments, Namespace) or getattr(arguments, "arch", None) != FAMILY:
        raise InputError(f"{source}: not an MSA Transformer of fair-esm: its args do not say arch={FAMILY}")
    tensors = {_plain(name): tensor for name, tensor in content["model"].items() if isinstance(tensor, Tensor)}
    regression = source.with_name(f"{source.stem}{_SUFFIX}{source.suffix}")
    if "contact_head.regression.weight" not in tensors:
        if not regression.is_file():
            raise InputError(f"{regression}: not there: it holds the regression of contacts")
        tensors |= _load(regression)["model"]
    shape = _shape(source, arguments, tensors)
    if (rows := tensors.get("msa_position_embedding")) is not None:
        # the first release has one number for each row
        tensors["msa_position_embedding"] = rows.expand(1, -1, 1, shape.hidden_size)[0, :, 0].contiguous()
    taken = SourceTensors(tensors, source)
    with torch.device("meta"):
        wanted = MSATransformer(shape).state_dict()
    save_model(new_directory(target), shape, {name: taken.take(_theirs(name), of.shape) for name, of in wanted.items()})
    return shape


def save_model(directory: Path, shape: Shape, tensors: dict[str, Tensor]) -> None:
    """Write ``model.safetensors`` and ``config.json``."""
    with written_whole(directory / WEIGHTS) as file:
        file.write(save(tensors))
    write_text(directory / SHAPE, json.dumps({"family": FAMILY, **asdict(shape)}, indent=2) + "\n")


def load_model(directory: Path) -> MSATransformer:
    """Read what `save_model` wrote, in evaluation mode; `InputError` if it is something else."""
    for name in (WEIGHTS, SHAPE):
        if not (directory / name).is_file():
            raise InputError(f"{directory}: no {name} in it: import an MSA Transformer by `proteinlm import msa`")
    try:
        values = read_json(directory / SHAPE)
        if values.pop("family", None) != FAMILY:
            raise InputError(f"{directory}: not an MSA Transformer, which alone reads alignments; or leave out --model")
        with torch.device("meta"):
            model = MSATransformer(Shape(**values))
        model.load_state_dict(load((directory / WEIGHTS).read_bytes()), assign=True)
    except (ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{directory}: damaged: {first_line(error)}") from None
    return model.eval().requires_grad_(False)


def _load(file: Path) -> dict[str, Any]:
    """The content of a file; only tensors, plain values and a namespace of arguments are ever made of it."""
    try:
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: refused, or not a readable checkpoint: {first_line(error)}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{file}: not a readable checkpoint: {first_line(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f"{file}: not a checkpoint of fair-esm")
    return content


def _plain(name: str) -> str:
    """A tensor's name without prefixes; the released files call rows columns and columns rows."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith("layers."):
        swapped = {"row_self_attention": "column_self_attention", "column_self_attention": "row_self_attention"}
        parts = name.split(".")
        parts[2] = swapped.get(parts[2], parts[2])
        name = ".".join(parts)
    return name


def _shape(source: Path, arguments: Namespace, tensors: dict[str, Tensor]) -> Shape:
    try:
        layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
        return Shape(
            hidden_size=tensors["embed_tokens.weight"].shape[1],
            num_layers=layers,
            num_heads=int(tensors["contact_head.regression.weight"].shape[1]) // layers,
            feed_forward=tensors["layers.0.feed_forward_layer.layer.fc1.weight"].shape[0],
            max_positions=tensors["embed_positions.weight"].shape[0] - PAD - 1,
            max_rows=tensors["msa_position_embedding"].shape[1],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{source}: not an MSA Transformer of fair-esm: no {error}") from None


def _theirs(name: str) -> str:
    """fair-esm's name of our tensor `name`."""
    if name in ("rows", "head_bias"):
        return {"rows": "msa_position_embedding", "head_bias": "lm_head.bias"}[name]
    prefix = ""
    if name.startswith("blocks."):
        _, number, name = name.split(".", 2)
        prefix = f"layers.{number}."
    module, kind = name.rsplit(".", 1)
    if module in _NAMES:
        return f"{prefix}{_NAMES[module]}.{kind}"
    axis, projection = module.split(".")
    return f"{prefix}{axis}_self_attention.layer.{_PROJECTIONS[projection]}.{kind}"
