"""The backbone and the language-model head of each config class: the one place that knows all of them."""

from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.config import (
    BaselineConfig,
    ForeignConfig,
    LSTMConfig,
    ModelConfig,
    OneHotConfig,
    PostNormConfig,
    ProtVecConfig,
    PublishedConfig,
    ResNetConfig,
    UniRepConfig,
)
from proteinlm.models.backbone import Backbone, Block
from proteinlm.models.baselines.lstm import LSTM
from proteinlm.models.baselines.one_hot import OneHot
from proteinlm.models.baselines.post_norm import PostNorm, PostNormBlock
from proteinlm.models.baselines.protvec import ProtVec
from proteinlm.models.baselines.resnet import ResNet, ResNetBlock
from proteinlm.models.baselines.unirep import UniRep
from proteinlm.models.heads import LanguageModelHead, UntiedLanguageModelHead
from proteinlm.models.huggingface import ForeignBackbone
from proteinlm.models.published import PublishedBackbone

BACKBONES: dict[type[ModelConfig], type[nn.Module]] = {
    ModelConfig: Backbone,
    PublishedConfig: PublishedBackbone,
    ForeignConfig: ForeignBackbone,
    OneHotConfig: OneHot,
    LSTMConfig: LSTM,
    ResNetConfig: ResNet,
    PostNormConfig: PostNorm,
    UniRepConfig: UniRep,
    ProtVecConfig: ProtVec,
}
"""Packed proteins in, one hidden state per token out: ``backbone(tokens, starts, longest)``."""

BLOCKS = (Block, PostNormBlock, ResNetBlock)
"""The blocks that a backbone repeats, which are divided and recomputed one by one."""


def build(config: ModelConfig) -> nn.Module:
    """The backbone of a shape, with random weights."""
    kind: Any = BACKBONES[type(config)]
    return kind(config)


def build_for_weights(config: ModelConfig) -> nn.Module:
    """The backbone of a shape for `checkpoint.restore` with ``share``: of the large ones, parameters have no memory yet."""
    if type(config) not in (ModelConfig, PublishedConfig, UniRepConfig):
        return build(config)
    with torch.device("meta"):
        return build(config)


def language_model_head(config: ModelConfig) -> LanguageModelHead:
    """The language-model head of a shape, with random weights."""
    untied = isinstance(config, BaselineConfig) and not config.TIED
    return UntiedLanguageModelHead(config) if untied else LanguageModelHead(config)


def token_table(backbone: nn.Module) -> Tensor | None:
    """The backbone's token embedding (V, H or another width), which tied heads decode by; None if it has none."""
    embedding = getattr(backbone, "token_embedding", None)
    return None if embedding is None else embedding.weight


def states_at(backbone: nn.Module, tokens: Tensor, starts: Tensor, longest: int, places: Tensor) -> Tensor:
    """Hidden states (K, H) at `places` (K,) of packed proteins; where the backbone allows, it computes no more of them."""
    if isinstance(backbone, Backbone | PublishedBackbone):
        return backbone(tokens, starts, longest, places)
    return backbone(tokens, starts, longest).index_select(0, places)
