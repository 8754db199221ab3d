"""Imports checkpoints of fair-esm 2.0.0, ESM-1b and ESM-2, with the regression of contacts beside them."""

import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.checkpoint import published
from proteinlm.checkpoint.published import Names, Published
from proteinlm.checkpoint.tensors import SourceTensors, new_directory
from proteinlm.config import PublishedConfig
from proteinlm.errors import InputError, first_line

ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
REGRESSION = "-contact-regression.pt"
EPSILON = 1e-5
"""Of its LayerNorms, which are PyTorch's with their default."""
NAMES = Names(
    {
        "token_embedding": "embed_tokens",
        "position_embedding": "embed_positions",
        "embedding_norm": "emb_layer_norm_before",
        "norm": "emb_layer_norm_after",
    },
    {
        "attention.output": "self_attn.out_proj",
        "attention_norm": "self_attn_layer_norm",
        "feed_forward_norm": "final_layer_norm",
        "feed_forward.up": "fc1",
        "feed_forward.down": "fc2",
    },
    {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias", "decoder": "lm_head"},
    block="layers.{}",
    parts=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)
_PREFIX = re.compile(r"^(encoder\.)?(sentence_encoder\.)?")


def import_checkpoint(source: Path, target: Path) -> Published:
    """Write the model in the file `source` to the new directory `target`, in our form; nothing in it is executed.

    The regression of contacts is read from the file of the same name with `REGRESSION` at its end, if that is there.
    `InputError` for another architecture, and files that are missing, damaged or of another shape.
    """
    content = _load(source)
    tensors = {_PREFIX.sub("", name): tensor for name, tensor in _tensors(content, source).items()}
    beside = source.with_name(source.stem + REGRESSION)
    if beside.is_file():
        tensors |= _tensors(_load(beside), beside)
    config = _config(content, tensors, source)
    found = SourceTensors(tensors, source)
    encoder = Published(config, published.convert(found, NAMES, config), found.unused)
    checkpoint.save_tensors(new_directory(target), encoder.tensors, config)
    return encoder


def _load(file: Path) -> dict[str, Any]:
    """The content of a file; only tensors, plain values and a namespace of arguments are ever made of it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with torch.serialization.safe_globals([Namespace]):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = f"it names {named[1]}, which is no tensor or plain data" if named else first_line(error)
            raise InputError(f"{file}: refused: {reason}") from None
        except Exception as error:  # a damaged file can fail in any way
            raise InputError(f"{file}: damaged: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a checkpoint of fair-esm")
    return content


def _tensors(content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    tensors = content.get("model")
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{file}: not a checkpoint of fair-esm: no tensors under model")
    return tensors


def _config(content: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> PublishedConfig:
    """The shape, which the tensors tell but for heads and token dropout."""
    settings = content["cfg"].get("model") if isinstance(content.get("cfg"), dict) else content.get("args")
    architecture = getattr(settings, "arch", "roberta_large")
    if settings is None or ("cfg" not in content and architecture != "roberta_large"):
        kind = "no settings in it" if settings is None else f"architecture {architecture}"
        raise InputError(f"{file}: {kind}: neither ESM-1b nor ESM-2")
    values = settings if isinstance(settings, dict) else vars(settings)
    try:
        table, up = tensors["embed_tokens.weight"], tensors["layers.0.fc1.weight"]
        rows = published.UNBOUNDED
        if "embed_positions.weight" in tensors:
            rows = len(tensors["embed_positions.weight"]) - published.ESM_OFFSET - 1
        return PublishedConfig(
            hidden_size=table.shape[1],
            num_layers=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers.")),
            num_heads=values["encoder_attention_heads"],
            max_positions=rows,
            positions="learned" if "embed_positions.weight" in tensors else "rotary",
            vocab_size=len(table),
            dropout=0.0,
            family="esm",
            feed_forward_size=len(up),
            epsilon=EPSILON,
            embedding_norm="emb_layer_norm_before.weight" in tensors,
            token_dropout=bool(values["token_dropout"]),
            tokens=published.tokens_for({token: index for index, token in enumerate(ALPHABET)}, file),
            closing=[ALPHABET.index("<eos>")],
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{file}: not the shape of an ESM: {reason}") from None
