"""Every head computes its plain, materialised form, one protein at a time: values, gradients and what is dropped."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from proteinlm.config import ModelConfig
from proteinlm.models.heads import (
    Head,
    LanguageModelHead,
    NextResidueHead,
    PairLinear,
    PairResidualNetwork,
    ProteinLightAttention,
    ProteinLinear,
    ProteinMean,
    ProteinMLP,
    ProteinPositions,
    ProteinWeightNorm,
    ResidueConvolution,
    ResidueLinear,
    ResidueMLP,
    UntiedLanguageModelHead,
)
from proteinlm.models.packed import with_gaps
from tests.models.heads import HIDDEN, LENGTHS, assert_same, concrete, gradients, packed, task_heads


def test_residue_mlp_is_its_layers():
    hidden, starts = packed()
    head = ResidueMLP(HIDDEN, 3, dropout=0.1).eval()
    plain = nn.Sequential(head.dense, nn.Tanh(), head.output)
    assert_same([head(hidden, starts)], [plain(hidden)], hidden, *head.parameters())


@pytest.mark.parametrize(
    "head", [ProteinMLP(HIDDEN, 5, 0.1), ProteinWeightNorm(HIDDEN, 5), ProteinLinear(HIDDEN, 5, 0.1)]
)
def test_protein_heads_read_cls_alone(head):
    hidden, starts = packed()
    head.eval()
    plain = {
        ProteinMLP: lambda cls: head.output(torch.tanh(head.dense(cls))),
        ProteinWeightNorm: lambda cls: head.output(torch.relu(head.dense(torch.tanh(head.pooler[0](cls))))),
        ProteinLinear: lambda cls: head.output(cls),
    }[type(head)]
    reference = plain(torch.stack([part[0] for part in hidden.split(LENGTHS)]))
    assert_same([head(hidden, starts)], [reference], hidden, *head.parameters())


def test_positions_weigh_what_differs_from_their_means():
    hidden, starts = packed()
    head = ProteinPositions(HIDDEN, 5, dropout=0.0, positions=30)
    nn.init.normal_(head.weight)
    nn.init.normal_(head.bias)
    first = head.train()(hidden, starts)  # takes this batch's means
    means = [torch.stack([part[i] for part in hidden.split(LENGTHS) if len(part) > i]).mean(dim=0) for i in range(17)]
    torch.testing.assert_close(head.mean[:17], torch.stack(means), rtol=1e-5, atol=1e-6)
    assert (head.mean[17:] == 0).all()
    references = [
        head.bias
        + sum(head.weight[i].view(5, HIDDEN) @ (x - means[i].detach()) for i, x in enumerate(part)) / HIDDEN**0.5
        for part in hidden.split(LENGTHS)
    ]
    assert_same([first], [torch.stack(references)], hidden, *head.parameters())
    again, _ = packed((9,))
    head(again, torch.tensor([0, 9], dtype=torch.int32))
    moved = torch.stack(means[:9]).lerp(again, 0.1)
    torch.testing.assert_close(head.mean[:9], moved, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.mean[9:17], torch.stack(means[9:]), rtol=1e-5, atol=1e-6)
    kept = head.mean.clone()
    longer, beyond = packed((25,))
    output = head.eval()(longer, beyond)
    assert torch.equal(output, head(longer[:17], torch.tensor([0, 17], dtype=torch.int32)))  # it has seen 17
    assert torch.equal(head.mean, kept)


def test_the_mean_is_over_residues_alone():
    hidden, starts = packed()
    head = ProteinMean(HIDDEN, 5, dropout=0.1).eval()
    residues = [torch.tanh(head.dense(part[1:])).mean(dim=0) for part in hidden.split(LENGTHS)]
    assert_same([head(hidden, starts)], [head.output(torch.stack(residues))], hidden, *head.parameters())


def test_light_attention_is_a_convolution_of_each_protein_alone():
    """The weighted mean and the maximum are over residues; the tokens beside them are zeros beyond the ends."""
    hidden, starts = packed()
    head = ProteinLightAttention(HIDDEN, 5, dropout=0.1, kernel_size=5, width=7).eval()
    rows = []
    for part in hidden.split(LENGTHS):
        value, score = (layer(part.T.unsqueeze(0)).squeeze(0) for layer in (head.value, head.attention))  # (H, L + 1)
        value, score = value[:, 1:], score[:, 1:]
        weights = score.exp() / score.exp().sum(dim=1, keepdim=True)
        pooled = torch.cat([(weights * value).sum(dim=1), value.max(dim=1).values])
        inner = head.dense(pooled)
        rows.append(head.output(torch.where(inner > 0, inner, 0.01 * inner)))
    assert_same([head(hidden, starts)], [torch.stack(rows)], hidden, *head.parameters())


def test_light_attention_learns_again_where_every_unit_is_below_zero():
    """Where one step has brought it for all variants of a protein: ReLU had no gradient there."""
    hidden, starts = packed()
    head = ProteinLightAttention(HIDDEN, 1, dropout=0.0, width=7)
    nn.init.constant_(head.dense.bias, -100.0)
    output = head(hidden, starts)
    assert len(output.unique()) == len(LENGTHS)
    output.sum().backward()
    for layer in (head.value, head.attention, head.dense):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


def test_a_linear_head_of_residues_is_one_layer():
    hidden, starts = packed()
    head = ResidueLinear(HIDDEN, 3, dropout=0.5).eval()
    assert_same([head(hidden, starts)], [hidden @ head.output.weight.T + head.output.bias], hidden, *head.parameters())


def tape_convolution(head: ResidueConvolution) -> nn.Sequential:
    """TAPE's ``SimpleConv`` with the weights of `head`, on (1, H, L)."""
    layers = [nn.Conv1d(HIDDEN, 512, 5, padding=2), nn.Conv1d(512, 8, 3, padding=1)]
    for layer, ours in zip(layers, (head.dense, head.output), strict=True):
        layer.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    first, second = (weight_norm(layer, dim=None) for layer in layers)
    return nn.Sequential(head.batch_norm, first, nn.ReLU(), second)


def test_residue_convolution_runs_each_protein_alone():
    hidden, starts = packed()
    head = ResidueConvolution(HIDDEN, 8)
    with torch.no_grad():
        head.batch_norm.running_mean.normal_()
    head.eval()
    plain = tape_convolution(head)
    reference = torch.cat([plain(part.T.unsqueeze(0)).squeeze(0).T for part in hidden.split(LENGTHS)])
    assert_same([head(hidden, starts)], [reference], hidden, head.batch_norm.weight)


def test_gaps_are_between_the_proteins_alone():
    x, starts = packed()
    rows, index = with_gaps(x, starts, 3)
    assert len(rows) == sum(LENGTHS) + 3 * (len(LENGTHS) - 1)
    assert torch.equal(rows[index], x)
    assert index[[0, -1]].tolist() == [0, len(rows) - 1]


def test_residue_convolution_normalises_over_all_tokens_in_training():
    hidden, starts = packed((16,))
    head = ResidueConvolution(HIDDEN, 8)
    reference = tape_convolution(head)(hidden.T.unsqueeze(0)).squeeze(0).T
    assert_same([head(hidden, starts)], [reference], hidden, head.batch_norm.weight)


def test_weight_norm_trains_as_torchs_does():
    hidden, _ = packed()
    head = ProteinWeightNorm(HIDDEN, 5, pooler=False)
    theirs = nn.Linear(HIDDEN, 512)
    theirs.load_state_dict({"weight": head.dense.weight, "bias": head.dense.bias})
    weight_norm(theirs, dim=None)
    ours, reference = head.dense(hidden), theirs(hidden)
    torch.testing.assert_close(ours, reference)
    gain, direction = head.dense.parametrizations.weight.parameters()
    their_gain, their_direction = theirs.parametrizations.weight.parameters()
    for own, their in zip(
        gradients([ours], gain, direction), gradients([reference], their_gain, their_direction), strict=True
    ):
        torch.testing.assert_close(own, their.view_as(own), rtol=1e-4, atol=1e-4)


def parameters(head: nn.Module) -> int:
    return sum(parameter.numel() for parameter in head.parameters())


def test_parameter_counts_are_the_published_ones():
    """TAPE's by its models' totals less the backbone's 91,961,856; a second class costs the residual network 65."""
    assert parameters(ResidueConvolution(768, 3)) == 93_934_597 - 91_961_856
    assert parameters(ProteinWeightNorm(768, 1195, pooler=False)) == 92_968_621 - 91_961_856
    assert parameters(ProteinWeightNorm(768, 1, pooler=False)) == 92_356_099 - 91_961_856
    assert parameters(PairLinear(768)) + 2 * 768 + 1 == 91_964_930 - 91_961_856
    assert parameters(PairResidualNetwork(1024)) + 64 + 1 == 2_350_786


HEADS = task_heads(ModelConfig(HIDDEN, 1, 2, max_positions=32, dropout=0.1))


def test_an_untied_head_scores_by_a_table_of_its_own():
    config = ModelConfig(HIDDEN, 1, 2)
    head, tied = UntiedLanguageModelHead(config), LanguageModelHead(config)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    tied.load_state_dict({name: tensor for name, tensor in head.state_dict().items() if name != "decoder"})
    hidden, _ = packed()
    assert_same([head(hidden, None)], [tied(hidden, head.decoder)], hidden, head.decoder)
    assert UntiedLanguageModelHead(ModelConfig(64, 1, 2)).decoder.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_head_of_next_residues_is_one_layer():
    hidden, _ = packed()
    head = NextResidueHead(HIDDEN, 31)
    plain = hidden @ head.output.weight.T + head.output.bias
    assert_same([head(hidden)], [plain], hidden, *head.parameters())


def test_dropout_is_tapes_where_nothing_is_said():
    """TAPE writes ``nn.Dropout()`` for pairs; its ``SimpleMLP`` and ``SimpleConv`` have none."""
    for head in (PairLinear(8), PairResidualNetwork(8, blocks=1)):
        assert head.features.dropout == nn.Dropout().p
    for head in (ProteinWeightNorm(8, 2), ResidueConvolution(8, 2)):
        assert head.dropout.p == 0


def test_weights_of_positions_begin_small():
    torch.manual_seed(0)
    head = ProteinPositions(64, 2, dropout=0.0, positions=100)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(head.weight.mean().item()) < 0.001


def test_every_head_is_one_that_a_task_offers():
    assert {type(head) for head in HEADS.values()} == concrete(Head)


@pytest.mark.parametrize("option", HEADS)
def test_packing_and_mixed_precision_change_nothing(option: str):
    head, (hidden, starts) = HEADS[option], packed()
    head.train()(*packed((17, 5, 3)))  # gives running means and variances something to be
    head.eval()
    together = head(hidden, starts)
    alone = [head(part, torch.tensor([0, len(part)], dtype=torch.int32)) for part in hidden.split(LENGTHS)]
    if isinstance(together, list):
        for one, other in zip(together, (part for (part,) in alone), strict=True):
            torch.testing.assert_close(one, other)
    else:
        torch.testing.assert_close(together, torch.cat(alone))
    with torch.autocast("cpu", torch.bfloat16):
        again = head(hidden, starts)
    torch.testing.assert_close(again, together, rtol=0, atol=0)
