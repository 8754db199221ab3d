"""Exports to directories of Hugging Face's ``MegatronBertForMaskedLM``, and imports from Hugging Face, without transformers.

MegatronBert (transformers ``models/megatron_bert``) is our architecture but for three things: query, key and value are
separate projections, it has a table of token types, and one activation serves blocks and head. The token types are one
zero row on the way out (with none, transformers fails) and are added to the positions on the way in.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from proteinlm import checkpoint, vocabulary
from proteinlm.checkpoint import Weights, published
from proteinlm.checkpoint.published import Published
from proteinlm.checkpoint.tensors import SourceTensors, new_directory, shapes
from proteinlm.config import LAYER_NORM_EPSILON, ModelConfig
from proteinlm.config.baselines import family_of
from proteinlm.errors import InputError
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from proteinlm.records.run_directory import SHAPE, WEIGHTS
from proteinlm.storage.atomic import write_text, written_whole

MODEL_TYPE = "megatron-bert"


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


def export(source: Path, target: Path, *, approximate: bool = False) -> ExportReport:
    """Write the weights in `source` to the new directory `target`, for ``AutoModelForMaskedLM`` and ``AutoTokenizer``.

    `InputError` if blocks and head differ in activation, unless `approximate`: then both have that of the blocks.
    """
    weights = checkpoint.load_weights(source)
    config, source_tensors = weights.config, SourceTensors(weights.tensors, source)
    if type(config) is not ModelConfig:
        raise InputError(
            f"{source}: {family_of(config)} has no form in Hugging Face: only ProteinLM's encoder is exported"
        )
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
    tensors = {prefix + published.TOKEN_TYPES: torch.zeros(1, config.hidden_size)}
    for name, tensor in ours.items():
        tensors |= _renamed(name, tensor, config, prefix)
    new_directory(target)
    with written_whole(target / WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    for name, values in _tokenizer(config).items():
        write_text(target / name, json.dumps(values, indent=2) + "\n")
    write_text(target / SHAPE, json.dumps(_their_config(config, has_head), indent=2) + "\n")
    return ExportReport(config, has_head, source_tensors.unused, _difference(weights) if differs else None)


def import_directory(source: Path, target: Path) -> Published:
    """Write the encoder in `source` (ESM, BERT, MegatronBert) to the new directory `target`, in our form.

    Raises `InputError` as `checkpoint.published.read` does.
    """
    encoder = published.read(source)
    checkpoint.save_tensors(new_directory(target), encoder.tensors, encoder.config)
    return encoder


def _renamed(name: str, tensor: Tensor, config: ModelConfig, prefix: str) -> dict[str, Tensor]:
    """Our tensor `name` as MegatronBert has it: one tensor, or query, key and value."""
    names = published.NAMES[MODEL_TYPE].of(name, prefix)
    if len(names) == 1:
        return {names[0]: tensor}
    parts = tensor.unflatten(0, (config.num_heads, 3, config.head_dim)).unbind(1)
    return {their: part.flatten(0, 1).contiguous() for their, part in zip(names, parts, strict=True)}


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
        "hidden_act": published.TANH[0],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "type_vocab_size": 1,
        "pad_token_id": vocabulary.PAD,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


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
