"""Heads of pairs compute their plain, materialised form, one protein at a time, in memory that grows with its length."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.models.heads import PairLinear, PairMLP, PairResidualNetwork, pair
from tests.models.heads import HIDDEN, LENGTHS, assert_same, gradients, packed


@pytest.fixture
def small_chunks(monkeypatch):
    """Pair heads take two or three rows at a time."""
    monkeypatch.setitem(pair.CHUNK_ELEMENTS, "cpu", 3 * 16 * HIDDEN)


def symmetric(logits: Tensor) -> Tensor:
    return (logits + logits.T) / 2


def concatenated(residues: Tensor) -> Tensor:
    """``[h_i ; h_j]``, (L, L, 2H)."""
    length = len(residues)
    return torch.cat([residues[:, None].expand(-1, length, -1), residues[None].expand(length, -1, -1)], dim=-1)


def product_and_difference(residues: Tensor) -> Tensor:
    return torch.cat([residues[:, None] * residues, residues[:, None] - residues], dim=-1)


def plain_pair_mlp(head: PairMLP, residues: Tensor) -> Tensor:
    return symmetric(head.output(head.dense(concatenated(residues)).tanh()).squeeze(-1))


def plain_pair_linear(head: PairLinear, residues: Tensor) -> Tensor:
    return symmetric(head.features.linear(product_and_difference(residues)).squeeze(-1))


def plain_residual_network(head: PairResidualNetwork, residues: Tensor) -> Tensor:
    x = head.features.linear(product_and_difference(residues)).permute(2, 0, 1).unsqueeze(0)
    for block in head.blocks:
        y = F.relu(block.norm_1(block.convolution_1(x)))
        x = F.relu(block.norm_2(block.convolution_2(y)) + x)
    return symmetric(head.output(x.squeeze(0).permute(1, 2, 0)).squeeze(-1))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("head", "plain"),
    [
        (PairMLP(HIDDEN, dropout=0.1), plain_pair_mlp),
        (PairLinear(HIDDEN), plain_pair_linear),
        (PairResidualNetwork(HIDDEN, blocks=3, width=8), plain_residual_network),
    ],
)
def test_pair_heads_are_their_materialised_forms(head, plain):
    hidden, starts = packed()
    head.eval()
    logits = head(hidden, starts)
    assert [tuple(part.shape) for part in logits] == [(length - 1, length - 1) for length in LENGTHS]
    references = [plain(head, part[1:]) for part in hidden.split(LENGTHS)]
    assert_same(logits, references, hidden, *head.parameters())


@pytest.mark.usefixtures("small_chunks")
def test_a_real_width_is_the_same_to_rounding():
    hidden, starts = packed((61,), hidden_size=256)
    head = PairMLP(256, dropout=0.0)
    assert_same(head(hidden, starts), [plain_pair_mlp(head, hidden[1:])], hidden, *head.parameters())


def drop_in_chunks(seed: int, shape: tuple[int, int, int], rows: int, dropout: float) -> Tensor:
    """The dropout of a pair head: the factor of every element, drawn chunk by chunk."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.cat([F.dropout(torch.ones(part, *shape[1:]), dropout) for part in chunk_sizes(shape[0], rows)])


def chunk_sizes(length: int, rows: int) -> list[int]:
    return [min(rows, length - start) for start in range(0, length, rows)]


@pytest.mark.parametrize("head", [PairMLP(HIDDEN, dropout=0.3), PairLinear(HIDDEN, dropout=0.5)])
def test_dropout_is_the_same_when_recomputed(head, monkeypatch):
    hidden, starts = packed((17,))
    width = HIDDEN if isinstance(head, PairMLP) else 2 * HIDDEN
    monkeypatch.setitem(pair.CHUNK_ELEMENTS, "cpu", 3 * 16 * width)
    torch.manual_seed(5)
    logits = head(hidden, starts)
    after = torch.rand(())
    torch.manual_seed(5)
    factor = drop_in_chunks(int(torch.randint(2**62, ())), (16, 16, width), rows=3, dropout=head_dropout(head))
    assert torch.rand(()) == after  # the generator moved by the one draw of the seed
    assert 0 < (factor == 0).float().mean() < 0.6
    if isinstance(head, PairMLP):
        dropped = head.output(head.dense(concatenated(hidden[1:])).tanh() * factor)
    else:
        dropped = head.features.linear(product_and_difference(hidden[1:]) * factor)
    assert_same(logits, [symmetric(dropped.squeeze(-1))], hidden, *head.parameters())
    assert not torch.equal(head(hidden, starts)[0], logits[0])


def head_dropout(head: PairMLP | PairLinear) -> float:
    return head.dropout if isinstance(head, PairMLP) else head.features.dropout


def test_residual_network_moves_its_statistics_once():
    hidden, starts = packed((9, 13))
    ours, plain = (PairResidualNetwork(HIDDEN, dropout=0.0, blocks=2, width=8) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    references = [plain_residual_network(plain, part[1:]) for part in hidden.split((9, 13))]
    expected = gradients(references, hidden, *plain.parameters())
    for own, their in zip(gradients(ours(hidden, starts), hidden, *ours.parameters()), expected, strict=True):
        torch.testing.assert_close(own, their, rtol=1e-4, atol=1e-4)
    for own, their in zip(ours.blocks, plain.blocks, strict=True):
        torch.testing.assert_close(own.norm_1.running_mean, their.norm_1.running_mean)
        torch.testing.assert_close(own.norm_2.running_var, their.norm_2.running_var)
        assert own.norm_1.momentum == 0.1


def test_residual_network_trains_on_a_lone_residue():
    hidden, starts = packed((2,))
    assert PairResidualNetwork(HIDDEN, blocks=1, width=8)(hidden, starts)[0].shape == (1, 1)


MEASURE = """
import sys, torch
from pathlib import Path
from proteinlm.models.heads import PairMLP
torch.set_num_threads(1)
length, hidden_size = int(sys.argv[1]), int(sys.argv[2])
head = PairMLP(hidden_size, dropout=0.1)
def step(length):
    hidden = torch.randn(length + 1, hidden_size, requires_grad=True)
    (logits,) = head(hidden, torch.tensor([0, length + 1], dtype=torch.int32))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros(length, length)).backward()
def peak():  # getrusage's is at least that of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
step(8)
before = peak()
step(length)
print(peak() - before)
"""


def peak_of_a_training_step(length: int, hidden_size: int) -> int:
    """MiB that one step of `PairMLP` on one protein takes beyond the process and the weights."""
    command = [sys.executable, "-c", MEASURE, str(length), str(hidden_size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_of_a_training_step_is_linear_in_length():
    assert peak_of_a_training_step(400, 128) < 120  # the plain form holds 400 x 400 x 128 x 4 bytes, 78 MiB, six times


@pytest.mark.slow
def test_a_protein_of_1000_residues_trains_below_a_gigabyte():
    assert peak_of_a_training_step(1000, 1024) < 1000
