"""Small checkpoints as ProteinLM's ``megatron/checkpointing.py`` lays them out, and what Megatron computes with them."""

import math
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Any]


def arguments(hidden: int, layers: int, heads: int, *, vocab: int, positions: int, shards: int) -> Namespace:
    return Namespace(
        hidden_size=hidden,
        num_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        padded_vocab_size=vocab,
        make_vocab_size_divisible_by=128,
        tensor_model_parallel_size=shards,
        pipeline_model_parallel_size=1,
        layernorm_epsilon=1e-12,
        apply_residual_connection_post_layernorm=False,
        bias_gelu_fusion=True,
        openai_gelu=False,
        onnx_safe=None,
        hidden_dropout=0.1,
        params_dtype=torch.float16,
        consumed_train_samples=1000,
    )


def model(args: Namespace, seed: int = 0) -> State:
    """The state of a whole model in fp16, nested as Megatron saves it."""
    draw = torch.Generator().manual_seed(seed)
    h, vocab = args.hidden_size, args.padded_vocab_size

    std = min(0.1, h**-0.5)  # logits of about one, whose rounding in float32 is about 1e-6

    def normal(*shape: int, mean: float = 0.0) -> Tensor:
        return (mean + std * torch.randn(shape, generator=draw)).half()

    def linear(name: str, rows: int, columns: int) -> State:
        return {f"{name}.weight": normal(rows, columns), f"{name}.bias": normal(rows)}

    def norm(name: str) -> State:
        return {f"{name}.weight": normal(h, mean=1.0), f"{name}.bias": normal(h)}

    transformer: State = {}
    for layer in range(args.num_layers):
        parts = (
            norm("input_layernorm"),
            linear("attention.query_key_value", 3 * h, h),
            linear("attention.dense", h, h),
            norm("post_attention_layernorm"),
            linear("mlp.dense_h_to_4h", 4 * h, h),
            linear("mlp.dense_4h_to_h", h, 4 * h),
        )
        transformer |= {f"layers.{layer}.{name}": tensor for part in parts for name, tensor in part.items()}
    return {
        "language_model": {
            "embedding": {
                "word_embeddings": {"weight": normal(vocab, h)},
                "position_embeddings": {"weight": normal(args.max_position_embeddings, h)},
            },
            "transformer": transformer | norm("final_layernorm"),
        },
        "lm_head": {"bias": normal(vocab)} | linear("dense", h, h) | norm("layernorm"),
    }


def shard(state: State, rank: int, shards: int) -> State:
    """What `rank` holds: rows of the embedding, of query_key_value and h_to_4h; columns of what follows them."""

    def part(path: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: part(f"{path}.{key}", inner) for key, inner in value.items()}
        by_rows = ("word_embeddings.weight", "lm_head.bias")
        if path.endswith(by_rows) or "query_key_value" in path or "dense_h_to_4h" in path:
            return value.chunk(shards, 0)[rank].clone()
        if path.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            return value.chunk(shards, 1)[rank].clone()
        return value

    return part("", state)


def write(directory: Path, arguments: Namespace, state: State, **other: Any) -> Path:
    """``release/mp_rank_<rank>/model_optim_rng.pt``, with an optimizer and the states of all random generators."""
    shards = arguments.tensor_model_parallel_size
    for rank in range(shards):
        part = shard(state, rank, shards)
        content = {
            "args": arguments,
            "checkpoint_version": 3.0,
            "iteration": 70000,
            "model": part,
            "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": [{"lr": 1e-4}]}},
            "lr_scheduler": {"max_lr": 1e-4, "decay_style": "linear"},
            "random_rng_state": random.getstate(),
            "np_rng_state": np.random.get_state(),  # noqa: NPY002
            "torch_rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.zeros(816, dtype=torch.uint8),
            "rng_tracker_states": {"model-parallel-rng": torch.zeros(816, dtype=torch.uint8)},
        }
        file = directory / "release" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        torch.save(content | other, file)
    (directory / "latest_checkpointed_iteration.txt").write_text("release")
    return directory


def logits(state: State, args: Namespace, tokens: Tensor) -> Tensor:
    """Logits (S, V) of one protein (S,) in float32, step by step as in Megatron's ``transformer.py``."""
    embedding = state["language_model"]["embedding"]
    word = embedding["word_embeddings"]["weight"].float()
    layers = {name: tensor.float() for name, tensor in state["language_model"]["transformer"].items()}
    head = {name: tensor.float() for name, tensor in state["lm_head"].items()}
    heads, dim = args.num_attention_heads, args.hidden_size // args.num_attention_heads

    def norm(x: Tensor, values: dict[str, Tensor], name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], values[f"{name}.weight"], values[f"{name}.bias"], eps=1e-12)

    def linear(x: Tensor, values: dict[str, Tensor], name: str) -> Tensor:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    x = word[tokens] + embedding["position_embeddings"]["weight"].float()[: len(tokens)]
    for layer in range(args.num_layers):
        prefix = f"layers.{layer}"
        mixed = linear(norm(x, layers, f"{prefix}.input_layernorm"), layers, f"{prefix}.attention.query_key_value")
        contexts = []
        for index in range(heads):  # rows (head, 3, dim)
            query, key, value = mixed[:, index * 3 * dim : (index + 1) * 3 * dim].split(dim, dim=1)
            contexts.append((query @ key.T / math.sqrt(dim)).softmax(dim=-1) @ value)
        x = x + linear(torch.cat(contexts, dim=1), layers, f"{prefix}.attention.dense")
        up = linear(norm(x, layers, f"{prefix}.post_attention_layernorm"), layers, f"{prefix}.mlp.dense_h_to_4h")
        gelu = up * 0.5 * (1 + torch.tanh(0.79788456 * up * (1 + 0.044715 * up * up)))
        x = x + linear(gelu, layers, f"{prefix}.mlp.dense_4h_to_h")
    x = linear(norm(x, layers, "final_layernorm"), head, "dense")
    x = norm(x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), head, "layernorm")
    return x @ word.T + head["bias"]
