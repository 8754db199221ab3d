"""Imports ProteinLM's released checkpoints (``megatron/checkpointing.py``, version 3.0); nothing in them is executed.

A checkpoint is ``mp_rank_<rank>/model_optim_rng.pt`` for each of its tensor-parallel ranks, in the directory itself or in
the one that ``latest_checkpointed_iteration.txt`` names (``release``, ``iter_<n>``).
"""

import pickle
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.checkpoint.tensors import SourceTensors, new_directory, shapes
from proteinlm.config import LAYER_NORM_EPSILON, ModelConfig
from proteinlm.errors import InputError, first_line
from proteinlm.launch import entry

FILE, LATEST = "model_optim_rng.pt", "latest_checkpointed_iteration.txt"
VERSION = 3.0  # 0 and 1.0 order the rows of query_key_value otherwise

RELEASED_200M = (1024, 16, 16)

_BY_ROWS = ("word_embeddings.weight", "lm_head.bias", "query_key_value.weight", "query_key_value.bias")
_BY_ROWS += ("dense_h_to_4h.weight", "dense_h_to_4h.bias")
_BY_COLUMNS = ("attention.dense.weight", "mlp.dense_4h_to_h.weight")

_NAMES = {
    "backbone.token_embedding": "language_model.embedding.word_embeddings",
    "backbone.position_embedding": "language_model.embedding.position_embeddings",
    "backbone.norm": "language_model.transformer.final_layernorm",
    "attention_norm": "input_layernorm",
    "attention.query_key_value": "attention.query_key_value",
    "attention.output": "attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.up": "mlp.dense_h_to_4h",
    "feed_forward.down": "mlp.dense_4h_to_h",
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layernorm",
}


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import."""

    config: ModelConfig
    row: str
    """The name of the row of Table 7, or of what else has this shape."""
    shards: int
    iteration: int | None
    has_head: bool
    """Whether the language-model head came along."""
    unused: list[str]


def import_checkpoint(source: Path, target: Path) -> ImportReport:
    """Write the weights of the checkpoint `source` to the new directory `target`, as `checkpoint.load_weights` reads them.

    `InputError` for what is no such checkpoint, for shards that do not belong together, and for a model that computes
    something else than our backbone does.
    """
    files = _files(source)
    shards = [_Shard(file) for file in files]
    config = _config(shards[0].arguments, files[0])
    source_tensors = SourceTensors(_merged(shards, files), source)
    has_head = "lm_head.bias" in source_tensors
    tensors = {name: source_tensors.take(_theirs(name), shape) for name, shape in shapes(config, head=has_head).items()}
    checkpoint.save_tensors(new_directory(target), tensors, config)
    return ImportReport(config, row(config), len(shards), shards[0].iteration, has_head, source_tensors.unused)


def row(config: ModelConfig) -> str:
    """The name of a model of this shape in the paper."""
    shape = (config.hidden_size, config.num_layers, config.num_heads)
    name = "hidden-{}-layer-{}-head-{}".format(*shape)
    if (entry.CONF / "experiment/table7" / f"{name}.yaml").is_file():
        return f"{name} (Table 7)"
    return f"{name} (the released 200M model)" if shape == RELEASED_200M else f"{name} (not in Table 7)"


class _Shard:
    """The file of one rank."""

    def __init__(self, file: Path) -> None:
        content = _load(file)
        version = content.get("checkpoint_version", 0)
        if version != VERSION:
            raise InputError(f"{file}: checkpoint_version {version}, not {VERSION}")
        if not isinstance(content.get("args"), Namespace):
            raise InputError(f"{file}: no args in it, which alone tell the number of heads")
        self.arguments = content["args"]
        self.iteration: int | None = content.get("iteration")
        self.tensors = dict(_flattened(content.get("model"), ""))


class _Ignored:
    """Stands in for the numpy arrays of a checkpoint, which are states of random generators."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_NUMPY = ("ndarray", "dtype", "core.multiarray._reconstruct", "_core.multiarray._reconstruct")
_ALLOWED: list[Any] = [Namespace, *((_Ignored, f"numpy.{name}") for name in _NUMPY)]


_NAMED = re.compile(r"GLOBAL ([\w.]+)")


def _load(file: Path) -> dict[str, Any]:
    """The content of a file; only tensors, plain values and a namespace of arguments are ever made of it."""
    with torch.serialization.safe_globals(_ALLOWED):
        try:
            try:  # the optimizer's states, six times the weights, stay on the disk
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # not a zip file: torch before 1.6
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if named := _NAMED.search(str(error)):
                raise InputError(f"{file}: refused: it names {named[1]}, which is no tensor or plain data") from None
            raise InputError(f"{file}: not a readable checkpoint: {first_line(error)}") from None
        except Exception as error:  # a damaged pickle can fail in any way
            raise InputError(f"{file}: not a readable checkpoint: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a checkpoint of Megatron")
    return content


def _files(source: Path) -> list[Path]:
    """The shards' files in order of their ranks."""
    if not source.is_dir():
        raise InputError(f"{source}: no such directory")
    if (source / LATEST).is_file():
        iteration = (source / LATEST).read_text().strip()
        source = source / (f"iter_{int(iteration):07d}" if iteration.isdigit() else "release")
    if (source / FILE).is_file():
        return [source / FILE]
    ranks = sorted(file.parent.name.removeprefix("mp_rank_") for file in source.glob(f"mp_rank_*/{FILE}"))
    if not ranks:
        raise InputError(f"{source}: neither {FILE} nor mp_rank_00/{FILE} in it")
    if ranks != [f"{rank:02d}" for rank in range(len(ranks))]:
        raise InputError(f"{source}: ranks {', '.join(ranks)}: not a whole checkpoint, or one of pipeline stages")
    return [source / f"mp_rank_{rank}" / FILE for rank in ranks]


def _flattened(values: object, prefix: str) -> list[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        return [(prefix, values)]
    if not isinstance(values, dict):
        return []
    parts = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in values.items())
    return [item for name, value in parts for item in _flattened(value, name)]


def _config(arguments: Namespace, file: Path) -> ModelConfig:
    def argument(name: str, default: Any = None) -> Any:
        value = getattr(arguments, name, default)
        if value is None:
            raise InputError(f"{file}: its args have no {name}")
        return value

    def only(name: str, value: Any) -> None:
        if argument(name, value) != value:
            raise InputError(f"{file}: {name}={argument(name)}: this suite's backbone computes with {value}")

    only("layernorm_epsilon", LAYER_NORM_EPSILON)
    only("apply_residual_connection_post_layernorm", False)
    only("pipeline_model_parallel_size", 1)
    tanh_everywhere = argument("openai_gelu", False)
    if not tanh_everywhere:
        only("bias_gelu_fusion", True)  # the fused kernel is the tanh form
    try:
        return ModelConfig(
            hidden_size=int(argument("hidden_size")),
            num_layers=int(argument("num_layers")),
            num_heads=int(argument("num_attention_heads")),
            max_positions=int(argument("max_position_embeddings")),
            vocab_size=int(argument("padded_vocab_size")),
            dropout=float(argument("hidden_dropout", 0.1)),
            head_activation="gelu_tanh" if tanh_everywhere else "gelu",
        )
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{file}: its args are not the shape of a model: {error}") from None


def _merged(shards: list[_Shard], files: list[Path]) -> dict[str, Tensor]:
    """The tensors of the whole model."""
    first = shards[0]
    parts = getattr(first.arguments, "tensor_model_parallel_size", len(shards))
    if parts != len(shards):
        raise InputError(f"{files[0]}: one of {parts} tensor-parallel shards, of which {len(shards)} are there")
    for shard, file in zip(shards[1:], files[1:], strict=True):
        if shard.tensors.keys() != first.tensors.keys() or shard.iteration != first.iteration:
            raise InputError(f"{file}: not of the same checkpoint as {files[0]}")
    whole: dict[str, Tensor] = {}
    for name, tensor in first.tensors.items():
        pieces = [shard.tensors[name] for shard in shards]
        axis = 0 if name.endswith(_BY_ROWS) else 1 if name.endswith(_BY_COLUMNS) else None
        if axis is None and not all(torch.equal(tensor, piece) for piece in pieces):
            raise InputError(f"{files[0].parents[1]}: the shards differ in {name}, which all ranks have in common")
        whole[name] = tensor if axis is None or len(pieces) == 1 else torch.cat(pieces, axis)
    return whole


def _theirs(name: str) -> str:
    """Megatron's name of our tensor `name`."""
    if name == "head.bias":
        return "lm_head.bias"
    module, kind = name.rsplit(".", 1)
    if not module.startswith("backbone.blocks."):
        return f"{_NAMES[module]}.{kind}"
    layer, inner = module.removeprefix("backbone.blocks.").split(".", 1)
    return f"language_model.transformer.layers.{layer}.{_NAMES[inner]}.{kind}"
