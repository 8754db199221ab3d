"""Exports to and imports from directories of Hugging Face's ``MegatronBertForMaskedLM``, without transformers.

MegatronBert (transformers ``models/megatron_bert``) is our architecture but for three things: query, key and value are
separate projections, it has a table of token types, and one activation serves blocks and head. The token types are one
zero row on the way out (with none, transformers fails) and are added to the positions on the way in.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from proteinlm import checkpoint, vocabulary
from proteinlm.checkpoint import Weights
from proteinlm.config import LAYER_NORM_EPSILON, BaselineConfig, ModelConfig
from proteinlm.errors import InputError, first_line
from proteinlm.interop.tensors import SourceTensors, new_directory, shapes
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from proteinlm.records.run_directory import SHAPE, WEIGHTS
from proteinlm.storage.atomic import write_text, written_whole
from proteinlm.storage.untrusted import read_json

MODEL_TYPE = "megatron-bert"
TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # three names of the same function
PARTS = ("query", "key", "value")
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"

_NAMES = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "norm": "encoder.ln",
    "attention_norm": "attention.ln",
    "attention.output": "attention.output.dense",
    "feed_forward_norm": "ln",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
}
_HEAD = {"dense": "transform.dense", "norm": "transform.LayerNorm"}


@dataclass(frozen=True)
class ExportReport:
    """The outcome of an export."""

    config: ModelConfig
    has_head: bool
    """Whether the language-model head went along; without one, the directory holds a bare ``MegatronBertModel``."""
    left_out: list[str]
    """The tensors that MegatronBert has no place for: the head of a task."""
    difference: float | None
    """Largest difference of a logit because blocks and head must share an activation; None if they do anyway."""


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import."""

    config: ModelConfig
    has_head: bool
    unused: list[str]


def export(source: Path, target: Path, *, approximate: bool = False) -> ExportReport:
    """Write the weights in `source` to the new directory `target`, for ``AutoModelForMaskedLM`` and ``AutoTokenizer``.

    `InputError` if blocks and head differ in activation, unless `approximate`: then both have that of the blocks.
    """
    weights = checkpoint.load_weights(source)
    config, source_tensors = weights.config, SourceTensors(weights.tensors, source)
    if isinstance(config, BaselineConfig):
        raise InputError(f"{source}: {config.family} has no form in Hugging Face: only ProteinLM's encoder is exported")
    for knob, value in (("positions", "learned"), ("feed_forward", "gelu")):
        if getattr(config, knob) != value:
            raise InputError(
                f"{source}: model.{knob}={getattr(config, knob)} has no place in MegatronBert: not exported"
            )
    has_head = "head.bias" in source_tensors
    differs = has_head and config.head_activation != "gelu_tanh"
    if differs and not approximate:
        raise InputError(
            f"{source}: blocks compute GELU in tanh form and the head in erf form, for which MegatronBert has no place: "
            "--approximate gives both the tanh form and prints the difference that it makes"
        )
    ours = {name: source_tensors.take(name, shape) for name, shape in shapes(config, head=has_head).items()}
    prefix = "bert." if has_head else ""
    tensors = {prefix + TOKEN_TYPES: torch.zeros(1, config.hidden_size)}
    for name, tensor in ours.items():
        tensors |= _renamed(name, tensor, config, prefix)
    new_directory(target)
    with written_whole(target / WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    for name, values in _tokenizer(config).items():
        write_text(target / name, json.dumps(values, indent=2) + "\n")
    write_text(target / SHAPE, json.dumps(_their_config(config, has_head), indent=2) + "\n")
    return ExportReport(config, has_head, source_tensors.unused, _difference(weights) if differs else None)


def import_directory(source: Path, target: Path) -> ImportReport:
    """Write the MegatronBert in `source` to the new directory `target`, as `checkpoint.load_weights` reads it.

    `InputError` for another architecture, another vocabulary, and options that our backbone does not have.
    """
    values = _read_json(source / SHAPE)
    config = _our_config(values, source / SHAPE)
    _check_vocabulary(source)
    source_tensors = SourceTensors(_read_tensors(source), source)
    prefix = "bert." if f"bert.{TOKEN_TYPES}" in source_tensors else ""
    has_head = "cls.predictions.bias" in source_tensors
    tensors = {
        name: _taken(name, shape, source_tensors, config, prefix)
        for name, shape in shapes(config, head=has_head).items()
    }
    types = source_tensors.take(prefix + TOKEN_TYPES, (int(values.get("type_vocab_size", 2)), config.hidden_size))
    if types[0].any():  # not in any case: adding zero would turn -0.0 into 0.0
        tensors["backbone.position_embedding.weight"] = tensors["backbone.position_embedding.weight"] + types[0]
    tied = (("weight", tensors["backbone.token_embedding.weight"]), ("bias", tensors.get("head.bias")))
    for kind, tensor in tied:
        copy = f"cls.predictions.decoder.{kind}"
        if (
            tensor is not None
            and copy in source_tensors
            and not torch.equal(source_tensors.take(copy, tensor.shape), tensor)
        ):
            raise InputError(f"{source}: {copy} is not tied to what it should be")
    checkpoint.save_tensors(new_directory(target), tensors, config)
    return ImportReport(config, has_head, source_tensors.unused)


def _renamed(name: str, tensor: Tensor, config: ModelConfig, prefix: str) -> dict[str, Tensor]:
    """Our tensor `name` as MegatronBert has it: one tensor, or query, key and value."""
    names = _theirs(name, prefix)
    if len(names) == 1:
        return {names[0]: tensor}
    parts = tensor.unflatten(0, (config.num_heads, 3, config.head_dim)).unbind(1)
    return {their: part.flatten(0, 1).contiguous() for their, part in zip(names, parts, strict=True)}


def _taken(name: str, shape: torch.Size, source_tensors: SourceTensors, config: ModelConfig, prefix: str) -> Tensor:
    """Our tensor `name` from theirs."""
    names = _theirs(name, prefix)
    if len(names) == 1:
        return source_tensors.take(names[0], shape)
    heads = (config.num_heads, config.head_dim)
    parts = [source_tensors.take(their, (shape[0] // 3, *shape[1:])).unflatten(0, heads) for their in names]
    return torch.stack(parts, dim=1).flatten(0, 2)


def _theirs(name: str, prefix: str) -> list[str]:
    """MegatronBert's names of our tensor `name`."""
    part, rest = name.split(".", 1)
    if part == "head":
        if rest == "bias":
            return ["cls.predictions.bias"]
        module, kind = rest.split(".")
        return [f"cls.predictions.{_HEAD[module]}.{kind}"]
    module, kind = rest.rsplit(".", 1)
    if not module.startswith("blocks."):
        return [f"{prefix}{_NAMES[module]}.{kind}"]
    _, layer, inner = module.split(".", 2)
    if inner == "attention.query_key_value":
        return [f"{prefix}encoder.layer.{layer}.attention.self.{which}.{kind}" for which in PARTS]
    return [f"{prefix}encoder.layer.{layer}.{_NAMES[inner]}.{kind}"]


def _their_config(config: ModelConfig, has_head: bool) -> dict[str, Any]:
    return {
        "architectures": ["MegatronBertForMaskedLM" if has_head else "MegatronBertModel"],
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "hidden_act": TANH[0],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "type_vocab_size": 1,
        "pad_token_id": vocabulary.PAD,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _our_config(values: dict[str, Any], file: Path) -> ModelConfig:
    if values.get("model_type") != MODEL_TYPE:
        raise InputError(f"{file}: model_type {values.get('model_type')!r}, not {MODEL_TYPE!r}")
    if values.get("hidden_act", "gelu") not in TANH:
        raise InputError(f"{file}: hidden_act {values.get('hidden_act', 'gelu')!r} is not one of {', '.join(TANH)}")
    try:
        config = ModelConfig(
            hidden_size=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=values["num_attention_heads"],
            max_positions=values["max_position_embeddings"],
            vocab_size=values["vocab_size"],
            dropout=values.get("hidden_dropout_prob", 0.1),
        )
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the shape of a model: {error}") from None
    wanted = {"layer_norm_eps": LAYER_NORM_EPSILON, "intermediate_size": config.intermediate_size, "is_decoder": False}
    for name, value in wanted.items():
        if values.get(name, value) != value:
            raise InputError(f"{file}: {name} is {values[name]}: this suite's backbone has {value}")
    return config


def _tokenizer(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The tokenizer's files: one token per letter of either case, blanks dropped, opened by [CLS] and never closed."""
    special = {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special["unk_token"] = "[UNK]"
    added = [
        {"id": vocabulary.IDS[token], "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token in special.values()
    ]
    replaced = [{"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": ""}]
    replaced += [
        {"type": "Replace", "pattern": {"String": letter.lower()}, "content": letter} for letter in vocabulary.RESIDUES
    ]
    cls = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            "normalizer": {"type": "Sequence", "normalizers": replaced},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "."},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [cls, first],
                "pair": [cls, first, cls, second],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [vocabulary.CLS], "tokens": ["[CLS]"]}},
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary.IDS, "unk_token": "[UNK]"},
        }
    }
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_positions}
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    return files | {"tokenizer_config.json": options | inputs | special}


def _check_vocabulary(source: Path) -> None:
    """Refuse a directory whose tokenizer has other ids than ours; one without a tokenizer is taken at its word."""
    ids: dict[str, int] = {}
    if (source / "tokenizer.json").is_file():
        ids = (_read_json(source / "tokenizer.json").get("model") or {}).get("vocab") or {}
    elif (source / "vocab.txt").is_file():
        ids = {token: index for index, token in enumerate((source / "vocab.txt").read_text().splitlines())}
    else:
        return
    for token, index in vocabulary.IDS.items():
        if not isinstance(ids, dict) or ids.get(token) != index:
            found = ids.get(token) if isinstance(ids, dict) else None
            raise InputError(f"{source}: its tokenizer gives {token} the id {found}, ProteinLM's vocabulary {index}")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: no such directory")
    if not file.is_file():
        raise InputError(f"{file.parent}: no {file.name} in it")
    try:
        values = read_json(file)
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{file}: not an object")
    return values


def _read_tensors(source: Path) -> dict[str, Tensor]:
    index = source / f"{WEIGHTS}.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    try:
        if names == [WEIGHTS] and not (source / WEIGHTS).is_file() and (source / "pytorch_model.bin").is_file():
            return torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
        for name in names:
            if not (source / name).is_file():
                raise InputError(f"{source}: no {name} in it, so no weights")
            tensors |= load_file(source / name)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{source}: its weights are damaged: {first_line(error)}") from None
    return tensors


def _difference(weights: Weights) -> float:
    """Largest difference of a logit, over random proteins, between the head's own activation and that of the blocks."""
    backbone, head = Backbone(weights.config).eval(), LanguageModelHead(weights.config)
    checkpoint.restore({"backbone": backbone, "head": head}, weights)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(vocabulary.TOKENS) - len(vocabulary.RESIDUES), 31, (4, 129), generator=draw)
    tokens[:, 0] = vocabulary.CLS
    tokens = tokens[:, : weights.config.max_positions]
    starts = torch.arange(5, dtype=torch.int32) * tokens.shape[1]
    with torch.inference_mode():
        hidden = backbone(tokens.flatten(), starts, tokens.shape[1])
        exact, approximate = [], []
        for form, logits in (("none", exact), ("tanh", approximate)):
            head.approximate = form
            logits.append(head(hidden, backbone.token_embedding.weight))
    return float((exact[0] - approximate[0]).abs().max())
