"""Reads published encoders from directories of Hugging Face, without transformers: ESM-1b, ESM-2, BERT and MegatronBert.

Both namings of ESM's LayerNorms are read: transformers 5 writes ``gamma`` and ``beta`` where earlier ones wrote ``weight``
and ``bias``. The language-model head comes along, and ESM's regression of contacts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proteinlm import vocabulary
from proteinlm.checkpoint.tensors import SourceTensors, read_tensors, shapes
from proteinlm.config import LAYER_NORM_EPSILON, PUBLISHED, ModelConfig, PublishedConfig
from proteinlm.errors import InputError, first_line
from proteinlm.records.run_directory import SHAPE, WEIGHTS
from proteinlm.storage.untrusted import read_json

TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # three names of the same function
UNBOUNDED = 65_536
"""Positions of an encoder that has no table of them: the most that ours may have."""
ESM_OFFSET = 2
"""The first row of ESM-1b's table of positions that a token has: those before belong to padding."""
CONTACTS = "contacts.weight", "contacts.bias"
"""Our names of a regression of contacts from attention maps: the coefficient of each head, layer by layer, and the rest."""
SPECIALS = {"[PAD]": "<pad>", "[MASK]": "<mask>", "[CLS]": "<cls>", "[SEP]": "<eos>", "[UNK]": "<unk>"}
"""The special tokens of ours, by which BERT calls its own too, and ESM's names of them."""


@dataclass(frozen=True)
class Names:
    """What an encoder calls our tensors."""

    outer: Mapping[str, str]
    """Of modules outside the blocks."""
    inner: Mapping[str, str]
    """Of modules in a block."""
    head: Mapping[str, str]
    """Of the language-model head's modules, its ``bias``, and the ``decoder`` that should be tied to the token table."""
    block: str = "encoder.layer.{}"
    parts: tuple[str, str, str] = ("attention.self.query", "attention.self.key", "attention.self.value")
    """Of the three projections that are one of ours."""
    prefix: str = ""
    """What stands before backbone tensors in a file that has a head as well."""

    def of(self, name: str, prefix: str) -> list[str]:
        """Its names of our tensor `name`: one, or those of query, key and value."""
        part, rest = name.split(".", 1)
        if part == "head":
            module, _, kind = rest.rpartition(".")
            return [f"{self.head[module]}.{kind}" if module else self.head[rest]]
        module, kind = rest.rsplit(".", 1)
        if not module.startswith("blocks."):
            return [f"{prefix}{self.outer[module]}.{kind}"]
        _, layer, module = module.split(".", 2)
        modules = self.parts if module == "attention.query_key_value" else (self.inner[module],)
        return [f"{prefix}{self.block.format(layer)}.{each}.{kind}" for each in modules]


_BERT_HEAD = {
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias",
    "decoder": "cls.predictions.decoder",
}
_TABLES = {"token_embedding": "embeddings.word_embeddings", "position_embedding": "embeddings.position_embeddings"}
_BLOCK = {
    "attention.output": "attention.output.dense",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
}
NAMES = {
    "esm": Names(
        _TABLES | {"embedding_norm": "embeddings.layer_norm", "norm": "encoder.emb_layer_norm_after"},
        _BLOCK | {"attention_norm": "attention.LayerNorm", "feed_forward_norm": "LayerNorm"},
        {
            "dense": "lm_head.dense",
            "norm": "lm_head.layer_norm",
            "bias": "lm_head.bias",
            "decoder": "lm_head.decoder",
        },
        prefix="esm.",
    ),
    "bert": Names(
        _TABLES | {"embedding_norm": "embeddings.LayerNorm"},
        _BLOCK | {"attention_norm": "attention.output.LayerNorm", "feed_forward_norm": "output.LayerNorm"},
        _BERT_HEAD,
        prefix="bert.",
    ),
    "megatron-bert": Names(
        _TABLES | {"norm": "encoder.ln"},
        _BLOCK | {"attention_norm": "attention.ln", "feed_forward_norm": "ln"},
        _BERT_HEAD,
        prefix="bert.",
    ),
}
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"


class Published(NamedTuple):
    """An encoder as it was read."""

    config: ModelConfig
    """A `PublishedConfig`; that of ProteinLM's encoder for a MegatronBert which is one."""
    tensors: dict[str, Tensor]
    """Named as `weights.save_weights` names them, and `CONTACTS` of an ESM that has them."""
    unused: list[str]
    """The tensors of the file that have no place here."""

    @property
    def has_head(self) -> bool:
        """Whether the language-model head came along."""
        return "head.bias" in self.tensors

    @property
    def has_contacts(self) -> bool:
        """Whether ESM's regression of contacts came along."""
        return CONTACTS[0] in self.tensors

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the tensors and the shape."""
        whole = hashlib.sha256(repr(self.config).encode())
        for name in sorted(self.tensors):
            whole.update(name.encode() + self.tensors[name].contiguous().numpy().tobytes())
        return whole.hexdigest()[:12]


def is_published(directory: Path) -> bool:
    """Whether `directory` is Hugging Face's, of an encoder that this module reads."""
    file = directory / SHAPE
    try:
        return file.is_file() and read_json(file).get("model_type") in PUBLISHED
    except (ValueError, TypeError, AttributeError):
        return False


def read(directory: Path) -> Published:
    """Read the encoder in `directory`.

    `InputError` for another architecture, an option that is not computed here, a vocabulary without an amino acid, and
    files that are missing, damaged or of another shape.
    """
    values = _read_object(directory / SHAPE)
    family = values.get("model_type")
    if family not in PUBLISHED:
        raise InputError(f"{directory / SHAPE}: model_type {family!r} is not one of {', '.join(PUBLISHED)}")
    ids, closing = _vocabulary(directory, family)
    tokens = list(range(len(vocabulary.TOKENS))) if ids is None else tokens_for(ids, directory)
    try:
        config = _config(values, tokens, closing)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{directory / SHAPE}: not the shape of an encoder: {_reason(error)}") from None
    source = SourceTensors(_renamed(_read_tensors(directory)), directory)
    tensors = convert(source, NAMES[family], config, types=int(values.get("type_vocab_size", 2)))
    ours = ids is None or all(ids.get(token) == index for token, index in vocabulary.IDS.items())
    return Published(_own(config) if ours and not closing else config, tensors, source.unused)


def convert(source: SourceTensors, names: Names, config: PublishedConfig, types: int = 0) -> dict[str, Tensor]:
    """Our tensors of an encoder from its own; BERT's first row of token `types` becomes part of every position."""
    prefix = names.prefix if f"{names.prefix}{names.outer['token_embedding']}.weight" in source else ""
    has_head = names.head["bias"] in source
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes(config, head=has_head).items():
        theirs = names.of(name, prefix)
        if name == "backbone.position_embedding.weight":
            offset = ESM_OFFSET if config.family == "esm" else 0
            tensors[name] = source.take(theirs[0], (shape[0] + offset, shape[1]))[offset:].clone()
        elif len(theirs) == 1:
            tensors[name] = source.take(theirs[0], shape)
        else:
            tensors[name] = _joined([source.take(part, (shape[0] // 3, *shape[1:])) for part in theirs], config)
    if config.family != "esm":
        first = source.take(prefix + TOKEN_TYPES, (types, config.hidden_size))[0]
        if first.any():  # not in any case: adding zero would turn -0.0 into 0.0
            tensors["backbone.position_embedding.weight"] = tensors["backbone.position_embedding.weight"] + first
    for kind, tied in (("weight", tensors["backbone.token_embedding.weight"]), ("bias", tensors.get("head.bias"))):
        copy = f"{names.head['decoder']}.{kind}"
        if tied is not None and copy in source and not torch.equal(source.take(copy, tied.shape), tied):
            raise InputError(f"{source.origin}: {copy} is not tied to what it should be")
    regression = f"{prefix}contact_head.regression"
    if f"{regression}.weight" in source:
        heads = config.num_layers * config.num_heads
        tensors[CONTACTS[0]] = source.take(f"{regression}.weight", (1, heads)).flatten()
        tensors[CONTACTS[1]] = source.take(f"{regression}.bias", (1,))
    return tensors


def tokens_for(ids: Mapping[str, int], origin: Path) -> list[int]:
    """The encoder's token for each of ours, from its `ids`; a letter that it does not know is its X, or else unknown."""

    def find(token: str) -> int | None:
        return ids.get(token, ids.get(SPECIALS.get(token, token)))

    for token in (*vocabulary.AMINO_ACIDS, "[CLS]", "[MASK]", "[UNK]"):
        if find(token) is None:
            what = token if token.startswith("[") else f"the amino acid {token}"
            raise InputError(f"{origin}: its vocabulary has no token for {what}: not a model of proteins")
    unknown = find("X") if find("X") is not None else find("[UNK]")
    found = (find(token) if find(token) is not None else unknown for token in vocabulary.TOKENS)
    return [int(token) for token in found if token is not None]


def _config(values: Mapping[str, Any], tokens: list[int], closing: list[int]) -> PublishedConfig:
    family = values["model_type"]
    fixed = {"is_decoder": False, "add_cross_attention": False, "is_folding_model": False, "rope_theta": 10000.0}
    fixed |= {"position_embedding_type": "absolute"} if family != "esm" else {}
    for name, value in fixed.items():
        if values.get(name, value) != value:
            raise InputError(f"{name} is {values[name]}, and only {value} is computed here")
    positions = {"absolute": "learned", "rotary": "rotary"}.get(values.get("position_embedding_type", "absolute"))
    activation = "gelu" if family == "esm" else values.get("hidden_act", "gelu")
    if positions is None or activation not in ("gelu", *TANH):
        wrong = "position_embedding_type" if positions is None else "hidden_act"
        raise InputError(f"{wrong} is {values[wrong]!r}, which is not computed here")
    rows = UNBOUNDED
    if positions == "learned":
        rows = values["max_position_embeddings"] - len(closing) - (ESM_OFFSET if family == "esm" else 0)
    return PublishedConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        max_positions=rows,
        positions=positions,
        vocab_size=values["vocab_size"],
        dropout=values.get("hidden_dropout_prob", 0.1),
        head_activation="gelu" if activation == "gelu" else "gelu_tanh",
        family=family,
        feed_forward_size=values["intermediate_size"],
        epsilon=values.get("layer_norm_eps", 1e-12),
        norm="post" if family == "bert" else "pre",
        embedding_norm=family == "bert" or bool(values.get("emb_layer_norm_before")),
        token_dropout=bool(values.get("token_dropout")),
        tokens=tokens,
        closing=closing,
    )


def _own(config: PublishedConfig) -> ModelConfig:
    """The shape as one of ProteinLM's encoder, if it is one."""
    ours = ModelConfig(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_positions=config.max_positions,
        vocab_size=max(config.vocab_size, len(vocabulary.TOKENS)),
        dropout=config.dropout,
        head_activation=config.head_activation,
    )
    here = (config.family, config.vocab_size, config.epsilon, config.activation, config.intermediate_size)
    same = here == ("megatron-bert", ours.vocab_size, LAYER_NORM_EPSILON, ours.activation, ours.intermediate_size)
    return ours if same else config


def _joined(parts: list[Tensor], config: PublishedConfig) -> Tensor:
    """Query, key and value as one projection, with rows by (head, 3, head dimension).

    With rotary positions the encoder turns each number of a head's first half with its fellow in the second, and we turn
    neighbours: rows of queries and keys are put into our order.
    """
    by_head = [part.unflatten(0, (config.num_heads, config.head_dim)) for part in parts]
    if config.positions == "rotary":
        by_head[:2] = [x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) for x in by_head[:2]]
    return torch.stack(by_head, dim=1).flatten(0, 2)


def _vocabulary(directory: Path, family: str) -> tuple[dict[str, int] | None, list[int]]:
    """The ids of the tokens, and the token that closes a protein, if any.

    A MegatronBert without a tokenizer is taken for one with ProteinLM's vocabulary, and gives None.
    """
    if (directory / "tokenizer.json").is_file():
        values = _read_object(directory / "tokenizer.json")
        try:
            ids = dict(values["model"]["vocab"]) | {token["content"]: token["id"] for token in values["added_tokens"]}
            around = _around(values.get("post_processor"))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{directory / 'tokenizer.json'}: not a vocabulary with one id for each token") from None
    elif (directory / "vocab.txt").is_file():
        try:
            lines = (directory / "vocab.txt").read_text().split("\n")
        except ValueError:
            raise InputError(f"{directory / 'vocab.txt'}: not UTF-8") from None
        ids, around = {token.strip(): index for index, token in enumerate(lines)}, None
    elif family == "megatron-bert":
        return None, []
    else:
        raise InputError(f"{directory}: no vocabulary of its tokenizer in it: neither tokenizer.json nor vocab.txt")
    if not all(isinstance(index, int) for index in ids.values()):
        raise InputError(f"{directory}: its vocabulary has ids that are no numbers")
    opening, closing = around or (None, [name for name in ("<eos>", "[SEP]") if name in ids][:1])
    if opening not in (None, ["<cls>"], ["[CLS]"]) or len(closing) > 1:
        raise InputError(f"{directory}: its tokenizer puts {opening} before a protein and {closing} after it")
    return ids, [ids[name] for name in closing]


def _around(processor: Any) -> tuple[list[str], list[str]] | None:
    """The special tokens before and after a protein; None if the tokenizer leaves that to others."""
    if not processor:
        return None
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        return [processor["cls"][0]], [processor["sep"][0]]
    pieces = processor["single"]
    place = next(place for place, piece in enumerate(pieces) if "Sequence" in piece)
    names = [piece["SpecialToken"]["id"] if "SpecialToken" in piece else "" for piece in pieces]
    return names[:place], names[place + 1 :]


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the classic names of the gains and biases of LayerNorms."""
    endings = {"gamma": "weight", "beta": "bias"}
    parts = {name: name.rpartition(".") for name in tensors}
    return {f"{head}{dot}{endings.get(end, end)}": tensors[name] for name, (head, dot, end) in parts.items()}


def _read_object(file: Path) -> dict[str, Any]:
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


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of all shards, of ``model.safetensors`` or else ``pytorch_model.bin``."""
    for name, load in ((WEIGHTS, read_tensors), ("pytorch_model.bin", load_pickle)):
        index = directory / f"{name}.index.json"
        if index.is_file():
            return _read_shards([directory / shard for shard in _shards(index)], load)
        if (directory / name).is_file():
            return _read_shards([directory / name], load)
    raise InputError(f"{directory}: neither {WEIGHTS} nor pytorch_model.bin in it, so no weights")


def _shards(index: Path) -> list[str]:
    shards = _read_object(index).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not names or any(Path(str(name)).name != name for name in names):  # no path that leads elsewhere
        raise InputError(f"{index}: names no files of this directory")
    return names


def _read_shards(files: Iterable[Path], load: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise InputError(f"{file.parent}: no {file.name} in it, which its index names")
        try:
            content = load(file)
        except Exception as error:  # a damaged file can fail in any way
            raise InputError(f"{file}: damaged: {first_line(error)}") from None
        if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
            raise InputError(f"{file}: not tensors by their names")
        tensors |= content
    return tensors


def load_pickle(file: Path) -> Any:
    """The content of a file that torch saved; nothing in it is executed."""
    return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
