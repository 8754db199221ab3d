"""Small published encoders with random weights, in directories as transformers saves them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"
ESM_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, ".", "-", "<null_1>", "<mask>"]
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
HEADS = 4


def _sizes(head_dim: int) -> dict[str, int]:
    hidden = HEADS * head_dim
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 128,
    }


def esm(directory: Path, head_dim: int = 8, **options: Any) -> Path:
    special = {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "layer_norm_eps": 1e-5, "token_dropout": True}
    config = transformers.EsmConfig(**_sizes(head_dim), **special, **options)
    return _save(directory, transformers.EsmForMaskedLM(config), ESM_TOKENS)


def esm2(directory: Path, head_dim: int = 8) -> Path:
    return esm(directory, head_dim, position_embedding_type="rotary", emb_layer_norm_before=False)


def esm1b(directory: Path, head_dim: int = 8) -> Path:
    return esm(directory, head_dim, position_embedding_type="absolute", emb_layer_norm_before=True)


def protbert(directory: Path, head_dim: int = 8) -> Path:
    config = transformers.BertConfig(**_sizes(head_dim), vocab_size=30)
    return _save(directory, transformers.BertForMaskedLM(config), BERT_TOKENS)


def megatron_bert(directory: Path, head_dim: int = 8) -> Path:
    config = transformers.MegatronBertConfig(**_sizes(head_dim), vocab_size=30)
    return _save(directory, transformers.MegatronBertForMaskedLM(config), BERT_TOKENS)


MAKERS = (esm2, esm1b, protbert, megatron_bert)


def _save(directory: Path, model: Any, tokens: list[str]) -> Path:
    with torch.no_grad():
        for parameter in model.parameters():  # gains, biases and token types too
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(tokens))
    return directory


def with_classic_names(directory: Path) -> None:
    """Rename the tensors in `directory` as transformers before 5 named them."""
    file = directory / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "*" not in name}
    endings = {"gamma": "weight", "beta": "bias"}
    parts = {name: name.rpartition(".") for name in tensors}
    new = {f"{head}.{endings.get(end, end)}": tensors[name] for name, (head, _, end) in parts.items()}
    save_file(new, file, metadata={"format": "pt"})


def tokens_of(directory: Path) -> list[str]:
    return (directory / "vocab.txt").read_text().split("\n")


def change_config(directory: Path, **values: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
