"""The backbone with its language-model head computes what transformers' MegatronBertForMaskedLM computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import MegatronBertConfig, MegatronBertForMaskedLM

from proteinlm import vocabulary
from proteinlm.config import ModelConfig
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead

SHAPES = [(64, 3, 4), (96, 2, 2), (128, 4, 2)]  # head dimensions 16, 48 and 64


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
@pytest.mark.parametrize(("hidden_size", "num_layers", "num_heads"), SHAPES)
def test_logits_and_gradients_equal_megatron_bert(hidden_size: int, num_layers: int, num_heads: int, activation: str):
    config = ModelConfig(hidden_size, num_layers, num_heads, max_positions=80, dropout=0.0, head_activation=activation)
    torch.manual_seed(0)
    reference = reference_model(config)
    ours = nn.ModuleDict({"backbone": Backbone(config), "head": LanguageModelHead(config)})
    with torch.no_grad():
        for parameter in reference.parameters():  # biases and norms away from their trivial initial values
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        reference.bert.embeddings.token_type_embeddings.weight.zero_()  # ours has no token types
        for name, parameter in ours.named_parameters():
            parameter.copy_(counterpart(name, dict(reference.named_parameters()), config))

    proteins = [torch.randint(6, 31, (length,)) for length in (31, 7, 64, 7)]
    for protein in proteins:
        protein[0] = vocabulary.CLS
    starts = torch.tensor([0, 31, 38, 102, 109], dtype=torch.int32)
    targets = torch.randint(6, 31, (109,))

    hidden = ours["backbone"](torch.cat(proteins), starts, longest=64)
    logits = ours["head"](hidden, ours["backbone"].token_embedding.weight)
    F.cross_entropy(logits, targets).backward()

    mask = pad_sequence([torch.ones_like(protein) for protein in proteins], batch_first=True)
    padded = pad_sequence(proteins, batch_first=True)
    expected = reference(padded, attention_mask=mask).logits[mask.bool()]
    F.cross_entropy(expected, targets).backward()

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, counterpart(name, gradients, config), atol=1e-5, rtol=1e-5, msg=name)


def reference_model(config: ModelConfig) -> MegatronBertForMaskedLM:
    model = MegatronBertForMaskedLM(
        MegatronBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            hidden_act="gelu_new",  # the tanh form
            layer_norm_eps=1e-12,
            type_vocab_size=1,
        )
    ).eval()
    if config.head_activation == "gelu":  # transformers has one activation for blocks and head
        model.cls.predictions.transform.transform_act_fn = nn.GELU()
    return model


def counterpart(name: str, reference: dict[str, Tensor], config: ModelConfig) -> Tensor:
    """The reference's tensor for our parameter `name`; query, key and value merged into (head, 3, head dimension) rows."""
    part, _, rest = name.partition(".")
    if part == "head":
        renamed = {"dense": "transform.dense", "norm": "transform.LayerNorm", "bias": "bias"}
        module, _, kind = rest.partition(".")
        return reference[".".join(filter(None, ("cls.predictions", renamed[module], kind)))]
    if not rest.startswith("blocks."):
        module, kind = rest.split(".")
        return reference[
            {
                "token_embedding": "bert.embeddings.word_embeddings.",
                "position_embedding": "bert.embeddings.position_embeddings.",
                "norm": "bert.encoder.ln.",
            }[module]
            + kind
        ]
    _, layer, *path, kind = rest.split(".")
    module = ".".join(path)
    prefix = f"bert.encoder.layer.{layer}."
    if module == "attention.query_key_value":
        parts = [reference[f"{prefix}attention.self.{which}.{kind}"] for which in ("query", "key", "value")]
        return torch.stack([x.unflatten(0, (config.num_heads, config.head_dim)) for x in parts], 1).flatten(0, 2)
    return reference[
        prefix
        + {
            "attention_norm": "attention.ln.",
            "attention.output": "attention.output.dense.",
            "feed_forward_norm": "ln.",
            "feed_forward.up": "intermediate.dense.",
            "feed_forward.down": "output.dense.",
        }[module]
        + kind
    ]
