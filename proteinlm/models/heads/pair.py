"""Heads with one answer per pair of residues: contact maps, without the features of all pairs in memory. Pure PyTorch.

The paper's head is `PairMLP` (ProteinLM ``megatron/model/token_pair_classification.py``); `PairLinear` is TAPE's, and
`PairResidualNetwork` that of the authors' fork of TAPE, whence part of the published numbers.

L residues of one protein, R of its rows, H hidden size, W width of a layer, C classes.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.models.heads import tanh_pairs
from proteinlm.models.heads.base import Head
from proteinlm.models.packed import per_protein
from proteinlm.models.seeding import reseed

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**23}
"""Size of the largest tensor that a pair head builds at once; training takes about a dozen of them. A CPU is as fast
with small ones, a GPU would wait for its launches."""


class PairHead(Head):
    """One logit per pair of residues of each protein, [CLS] left out: a list of symmetric (L, L)."""

    def predict(self, hidden: Tensor, starts: Tensor) -> list[Tensor]:
        maps = [self.pairs(protein[1:]) for protein in per_protein(hidden, starts)]
        return [(logits + logits.T) / 2 for logits in maps]  # the mean of both orders of a pair

    @abstractmethod
    def pairs(self, residues: Tensor) -> Tensor:
        """Logits (L, L) of ordered pairs, from the hidden states (L, H) of one protein."""

    @property
    @abstractmethod
    def final(self) -> nn.Linear:
        """The layer that the logit comes from."""

    def expect(self, share: float) -> None:
        """Let an untrained head say that this `share` of pairs is in contact.

        Contacts are few: a head that starts at one half moves everything it has towards "no" in its first steps, and
        `PairMLP` can saturate its tanh for good on the way.
        """
        nn.init.constant_(self.final.bias, math.log(share / (1 - share)))


class PairMLP(PairHead):
    """Linear, tanh, dropout, linear on the two hidden states of a pair, concatenated (paper section 3.2.3).

    ``tanh(A h_i + B h_j + c)``, with A and B the halves of the first layer's weights, needs no (L, L, 2H); its
    (L, L, H) exists a few rows at a time (`by_rows`). The paper's two classes are one logit here, their difference:
    H + 1 parameters fewer.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = dropout
        self.output = nn.Linear(hidden_size, 1)

    def pairs(self, residues: Tensor) -> Tensor:
        of_first, of_second = self.dense.weight.chunk(2, dim=1)  # (H, H) each
        first, second = F.linear(residues, of_first, self.dense.bias), F.linear(residues, of_second)  # (L, H) each
        dropout = self.dropout if self.training else 0.0
        if tanh_pairs.is_faster(first, dropout):
            return tanh_pairs.logits(first, second, self.output.weight.squeeze(0), self.output.bias.squeeze(0))
        return by_rows(tanh_rows, dropout, second.numel(), first, second, *self.output.parameters()).squeeze(-1)

    @property
    def final(self) -> nn.Linear:
        return self.output


def tanh_rows(dropout: float, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Outputs (R, L, 1) of the pairs of `first` (R, H) and `second` (L, H)."""
    return F.linear(F.dropout((first[:, None] + second).tanh(), dropout), weight, bias)


class PairFeatures(nn.Module):
    """Dropout and one linear layer on ``[h_i * h_j ; h_i - h_j]``: (L, L, C) without the (L, L, 2H)."""

    def __init__(self, hidden_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Linear(2 * hidden_size, classes)

    def forward(self, residues: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return by_rows(
            feature_rows, dropout, 2 * residues.numel(), residues, residues, self.linear.weight, self.linear.bias
        )


def feature_rows(dropout: float, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Outputs (R, L, C) of the pairs of `first` (R, H) and `second` (L, H).

    Both terms are matrix products, ``w * h_i`` with ``h_j`` and ``w h_i - w h_j``. TAPE's dropout, though, is drawn for
    each feature of each pair, which leaves nothing but to build them.
    """
    rows = first[:, None]
    if dropout:
        return F.linear(F.dropout(torch.cat([rows * second, rows - second], dim=-1), dropout), weight, bias)
    of_product, of_difference = weight.chunk(2, dim=1)  # (C, H) each
    product = (rows * of_product) @ second.T  # (R, C, L)
    return product.transpose(1, 2) + F.linear(rows, of_difference, bias) - F.linear(second, of_difference)


class PairLinear(PairHead):
    """TAPE's contact head: dropout and one linear layer on product and difference.

    In the mean of both orders the difference cancels, but for the dropout in training.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = PairFeatures(hidden_size, 1, dropout)

    def pairs(self, residues: Tensor) -> Tensor:
        return self.features(residues).squeeze(-1)

    @property
    def final(self) -> nn.Linear:
        return self.features.linear


class PairResidualNetwork(PairHead):
    """Thirty residual 3 x 3 blocks on product and difference: the contact head of the authors' fork of TAPE.

    The paper says that no residual network was used; the numbers of the 200M model come from this one. With one logit
    for its two classes it has 65 parameters fewer: 2,350,721 at H = 1024. The map is that of the residues; the fork's
    had a border of [CLS] and [SEP]. Batch statistics are over the pairs of one protein at a time.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.5, blocks: int = 30, width: int = 64) -> None:
        super().__init__()
        self.features = PairFeatures(hidden_size, width, dropout)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.output = nn.Linear(width, 1)

    def pairs(self, residues: Tensor) -> Tensor:
        if self.training and len(residues) == 1:  # no pair, and no variance to normalise by
            return residues.new_zeros(1, 1)
        x = self.features(residues).permute(2, 0, 1).unsqueeze(0)  # (1, W, L, L)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(recomputation, block))
        return self.output(x.squeeze(0).permute(1, 2, 0)).squeeze(-1)  # (L, L)

    @property
    def final(self) -> nn.Linear:
        return self.output


class ResidualBlock(nn.Module):
    """ResNet's basic block: convolution, batch norm, ReLU, convolution, batch norm, sum, ReLU on (1, W, L, L)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution_1 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(width)
        self.convolution_2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(self.convolution_1(x)).relu()  # (1, W, L, L)
        return (x + self.norm_2(self.convolution_2(y))).relu()  # (1, W, L, L)


def recomputation(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a forward pass and of its repetition, which must not move the running statistics a second time."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:  # the repetition ends in an exception as soon as it has what it needs
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def by_rows(rows: Callable[..., Tensor], dropout: float, row_elements: int, *tensors: Tensor) -> Tensor:
    """``rows(dropout, first, second, *parameters)`` of `tensors` (L, H), (L, H), ..., some rows of `first` at a time.

    Each chunk is forgotten and computed again in the backward pass, with the same dropout, which is why `rows` must be
    a function of its arguments alone. `row_elements` is the size of the largest tensor that one row needs.
    """
    size = max(1, CHUNK_ELEMENTS.get(tensors[0].device.type, 2**20) // max(1, row_elements))
    seed = int(torch.randint(2**62, ())) if dropout else None
    return _ByRows.apply(rows, dropout, size, seed, *tensors)


class _ByRows(torch.autograd.Function):
    """Chunks with `torch.utils.checkpoint` would do, were their results not left lying among their large temporaries:
    that splits the heap of a CPU process, which then takes as much memory as without chunks. Here results and gradients
    have their places beforehand.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Callable[..., Tensor], dropout: float, size: int, seed: int | None, *tensors: Tensor
    ) -> Tensor:
        first, *others = tensors
        ctx.save_for_backward(*tensors)
        ctx.rows, ctx.dropout, ctx.size, ctx.seed = rows, dropout, size, seed
        result = None
        with _seeded(seed, first.device):
            for start in range(0, len(first), size):
                part = rows(dropout, first[start : start + size], *others)
                if result is None:
                    result = part.new_empty(len(first), *part.shape[1:])
                result[start : start + size] = part
        assert result is not None
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        first, *others = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        of_first, *of_others = (_zeros(tensor) for tensor in (first, *others))
        with _seeded(ctx.seed, first.device), torch.enable_grad():
            for start in range(0, len(first), ctx.size):
                chunk = slice(start, start + ctx.size)
                inputs = (first[chunk].detach().requires_grad_(), *others)
                part = ctx.rows(ctx.dropout, *inputs)
                of_first[chunk], *increments = torch.autograd.grad(part, inputs, gradient[chunk])
                for total, increment in zip(of_others, increments, strict=True):
                    total += increment
        sums = zip((of_first, *of_others), ctx.saved_tensors, strict=True)
        return None, None, None, None, *(total.to(tensor.dtype) for total, tensor in sums)


def _zeros(tensor: Tensor) -> Tensor:
    """Zeros to sum the gradient of `tensor` in: at least float32, because the many increments may be bfloat16."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from `seed` inside, and leave the random generators as they were; None draws nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        reseed(seed, device)
        yield
