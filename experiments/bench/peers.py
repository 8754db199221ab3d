"""What users would train and embed with instead, at the same shape: built with random weights, dropout off everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from experiments.bench.workload import IGNORED, Padded
from proteinlm import vocabulary
from proteinlm.config import ModelConfig
from proteinlm.models.silence import silence_torchao

silence_torchao()


def megatron_bert(config: ModelConfig) -> Any:
    """MegatronBertForMaskedLM, the class that ProteinLM's weights load into; it has no fused attention."""
    return transformers.MegatronBertForMaskedLM(
        transformers.MegatronBertConfig(**_shape(config), hidden_act="gelu_new", max_position_embeddings=2176)
    )


def esm(config: ModelConfig) -> Any:
    """EsmForMaskedLM with rotary positions and torch's fused attention."""
    model = transformers.EsmForMaskedLM(
        transformers.EsmConfig(
            **_shape(config),
            max_position_embeddings=2178,
            position_embedding_type="rotary",
            mask_token_id=vocabulary.MASK,
            emb_layer_norm_before=False,
        )
    )
    assert model.config._attn_implementation == "sdpa"
    return model


def esm2(hidden: int, layers: int, heads: int, alphabet: Sequence[str]) -> Any:
    """EsmModel as ESM-2 has it."""
    torch.manual_seed(0)
    config = transformers.EsmConfig(
        vocab_size=len(alphabet),
        mask_token_id=alphabet.index("<mask>"),
        pad_token_id=alphabet.index("<pad>"),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )
    return transformers.EsmModel(config, add_pooling_layer=False)


def read_esm(directory: Path) -> Any:
    """EsmModel as it was saved in `directory`, in silence."""
    transformers.utils.logging.disable_progress_bar()
    return transformers.EsmModel.from_pretrained(directory, add_pooling_layer=False).eval()


class PlainEncoder(nn.Module):
    """torch.nn.TransformerEncoder over padded batches, with learned positions and a tied decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        layer = nn.TransformerEncoderLayer(
            hidden, config.num_heads, 4 * hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.tokens, self.positions = nn.Embedding(config.vocab_size, hidden), nn.Embedding(2176, hidden)
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.dense = nn.Linear(hidden, hidden)

    def hidden(self, batch: Padded) -> Tensor:
        x = self.tokens(batch.tokens) + self.positions.weight[: batch.tokens.shape[1]]
        return self.encoder(x, src_key_padding_mask=batch.real == 0)

    def forward(self, batch: Padded) -> Tensor:
        logits = F.linear(F.gelu(self.dense(self.hidden(batch))), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


def loss(model: nn.Module, batch: Padded) -> Tensor:
    """Mean loss of a peer on a batch, ()."""
    if isinstance(model, PlainEncoder):
        return model(batch)
    return model(input_ids=batch.tokens, attention_mask=batch.real, labels=batch.labels).loss


def mean_embedding(model: nn.Module, batch: Padded) -> Tensor:
    """Mean hidden state over the residues of each protein, (B, H), from a bare transformers encoder."""
    hidden = model(input_ids=batch.tokens, attention_mask=batch.real).last_hidden_state
    real = batch.real.clone()
    real[:, 0] = 0  # [CLS]
    return (hidden * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True)


def version() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def _shape(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 4 * config.hidden_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": vocabulary.PAD,
    }
