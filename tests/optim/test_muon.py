"""Muon's update is that of torch.optim.Muon, and the parameters beside its matrices get that of AdamW."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from proteinlm import optim
from proteinlm.config import OptimConfig
from proteinlm.models import registry
from proteinlm.optim import muon
from proteinlm.optim.muon import MuonAdamW, orthogonal
from tests.models.baselines.samples import TINY


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (48, 48)])
def test_the_update_is_torchs(shape: tuple[int, int], bf16: bool):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.01, "weight_decay": 0.1}
    mine = MuonAdamW([{"params": [ours], "muon": True, "bf16": bf16}], **settings)
    reference = Muon([theirs], momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    moved = (theirs - start).abs().mean()
    assert (ours - theirs).abs().mean() < 0.02 * moved  # torch computes it in bf16


def test_convolutions_are_no_matrices():
    model = TINY["resnet"]
    module = nn.ModuleDict({"backbone": registry.build(model)})
    optimizer, _ = optim.build(module, OptimConfig(matrices="muon"), 10, model)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert group["muon"] == (parameter.ndim == 2 and name.startswith("backbone.blocks."))
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_singular_values_are_near_one():
    torch.manual_seed(0)
    for shape in ((64, 200), (200, 64)):
        (update,) = orthogonal([1e-6 * torch.randn(shape) @ torch.diag(torch.logspace(-1, 1, shape[1]))])
        values = torch.linalg.svdvals(update)
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_matrices_that_are_multiplied_together_move_as_each_alone(monkeypatch: pytest.MonkeyPatch):
    shapes = [(6, 4), (4, 6), (4, 4), (6, 4), (5, 4), (4, 6)]

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape)
        MuonAdamW([{"params": matrices, "muon": True}], lr=0.1).step()
        return [matrix.detach() for matrix in matrices]

    assert [len(stack) for stack in muon.stacks([torch.empty(shape) for shape in shapes])] == [4, 1, 1]
    together = trained()
    monkeypatch.setattr(muon, "STACKED", 2 * 24)
    assert [len(stack) for stack in muon.stacks([torch.empty(shape) for shape in shapes])] == [2, 1, 2, 1]
    monkeypatch.setattr(muon, "STACKED", 0)
    for ours, alone in zip(together, trained(), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_zero_moves_nothing():
    matrix = nn.Parameter(torch.ones(4, 3))
    optimizer = MuonAdamW([{"params": [matrix], "muon": True}], lr=0.1, weight_decay=0.0)
    matrix.grad = torch.zeros(4, 3)
    optimizer.step()
    assert torch.equal(matrix, torch.ones(4, 3))


def test_the_rest_is_updated_as_by_adamw():
    torch.manual_seed(0)
    start = torch.randn(7)
    ours, theirs, matrix = nn.Parameter(start.clone()), nn.Parameter(start.clone()), nn.Parameter(torch.randn(4, 3))
    mine = MuonAdamW([{"params": [matrix], "muon": True}, {"params": [ours]}], lr=0.01, fused=True)
    reference = AdamW([theirs], lr=0.01, fused=True)
    for _ in range(3):
        ours.grad, matrix.grad = torch.randn(7), torch.randn(4, 3)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    assert torch.equal(ours, theirs)
    assert set(mine.state[matrix]) == {"step", "momentum"}


def test_a_resumed_optimiser_continues_bit_for_bit():
    def trained(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        matrix, bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
        optimizer = MuonAdamW([{"params": [matrix], "muon": True}, {"params": [bias]}], lr=0.01)
        for step in range(6):
            if interrupted and step == 3:
                state = optimizer.state_dict()
                optimizer = MuonAdamW([{"params": [matrix], "muon": True}, {"params": [bias]}], lr=0.01)
                optimizer.load_state_dict(state)
            matrix.grad, bias.grad = torch.randn(6, 4), torch.randn(6)
            optimizer.step()
        return torch.cat((matrix.flatten(), bias)).detach()

    assert torch.equal(trained(interrupted=True), trained(interrupted=False))


def test_an_update_that_is_held_back_never_was():
    def trained(*spoilt: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        matrix, bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
        optimizer = MuonAdamW([{"params": [matrix], "muon": True}, {"params": [bias]}], lr=0.01, fused=True)
        for step in range(6):
            for parameter in (matrix, bias):
                parameter.grad = torch.randn(parameter.shape)
            if step in spoilt:
                for parameter in (matrix, bias):
                    parameter.grad = torch.full(parameter.shape, torch.nan)
            optim.skip_update(optimizer, torch.tensor(float(step in spoilt)))
            kept = [tensor.clone() for tensor in tensors(optimizer)]
            optimizer.step()
            if step in spoilt:
                assert all(torch.equal(ours, old) for ours, old in zip(tensors(optimizer), kept, strict=True))
        return tensors(optimizer)

    def tensors(optimizer: MuonAdamW) -> list[torch.Tensor]:
        parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
        return parameters + [tensor for state in optimizer.state.values() for tensor in state.values()]

    assert all(tensor.isfinite().all() for tensor in trained(2, 4))
    assert not torch.equal(trained(2)[0], trained()[0])
