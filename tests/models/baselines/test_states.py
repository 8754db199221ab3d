"""Each baseline computes what its reference does for each protein alone, whatever the protein is packed with."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from scipy.special import expit
from torch import Tensor, nn

from proteinlm import vocabulary
from proteinlm.config import PostNormConfig
from proteinlm.models.baselines.lstm import LSTM
from proteinlm.models.baselines.post_norm import PostNorm
from proteinlm.models.baselines.resnet import ResNet, sinusoids
from proteinlm.models.baselines.unirep import multiplication_by
from tests.models.baselines.samples import TINY, backbone, proteins, states

LENGTHS = (30, 2, 30, 127, 1, 64, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TINY)
def test_packing_changes_nothing(family: str, dtype: torch.dtype):
    model, sample = backbone(TINY[family]), proteins(LENGTHS)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        alone = [states(model, [protein])[0] for protein in sample]
        for order in (range(7), [6, 1, 5, 0, 2, 4, 3], [3, 0]):
            together = states(model, [sample[place] for place in order], fillers=2)
            for place, found in zip(order, together, strict=True):
                scale = float(alone[place].abs().max())
                tolerance = 1e-6 if dtype == torch.float32 else 2e-2
                torch.testing.assert_close(found, alone[place], rtol=0, atol=tolerance * max(1.0, scale))


@pytest.mark.parametrize("family", TINY)
def test_no_protein_sees_another_and_cls_sees_all_of_its_own(family: str):
    model, sample = backbone(TINY[family]), proteins((20, 33, 20))
    changed = [sample[0], sample[1].clone(), sample[2]]
    changed[1][-1] = 6 if int(sample[1][-1]) != 6 else 7
    before, after = states(model, sample), states(model, changed)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1][0], after[1][0], atol=1e-5)


@pytest.mark.parametrize("family", [family for family in TINY if family != "one_hot"])
def test_gradients_stay_within_a_protein(family: str):
    model, sample = backbone(TINY[family]), proteins((20, 33, 20))
    starts = torch.tensor([0, 20, 53, 73], dtype=torch.int32)
    table = model.trigrams if family == "protvec" else model.token_embedding
    looked_up: list[Tensor] = []
    table.register_forward_hook(lambda _, __, output: looked_up.append(output) or output.retain_grad())
    hidden = model(torch.cat(sample), starts, 33)
    hidden[20:53].square().sum().backward()
    gradient = looked_up[0].grad
    assert gradient is not None
    if family in ("lstm", "unirep"):  # by protein again: UniRep looks tokens up in the order of steps
        assert int((gradient.abs().sum(-1) > 0).sum()) == 33
        return
    touched = gradient.abs().sum(-1) > 0
    assert touched.nonzero().min() >= 20
    assert touched.nonzero().max() < 53
    assert touched.sum() >= 32  # ProtVec replaces [CLS]


def test_the_transformer_is_bert():
    config = PostNormConfig(48, 3, 4, max_positions=128, dropout=0.0)
    ours = backbone(config)
    assert isinstance(ours, PostNorm)
    size = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    theirs = transformers.BertModel(
        transformers.BertConfig(
            **size, vocab_size=31, max_position_embeddings=128, type_vocab_size=1, layer_norm_eps=1e-12
        ),
        add_pooling_layer=False,
    ).eval()
    theirs.load_state_dict(as_bert(ours, heads=4))
    sample = proteins(LENGTHS)
    for protein, found in zip(sample, states(ours, sample), strict=True):
        with torch.no_grad():
            wanted = theirs(protein[None]).last_hidden_state[0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def as_bert(ours: PostNorm, heads: int) -> dict[str, Tensor]:
    """Our weights by the names of transformers; the one type's row is zero."""
    known = ours.state_dict()
    width = known["norm.weight"].shape[0]
    found = {
        "embeddings.word_embeddings.weight": known["token_embedding.weight"],
        "embeddings.position_embeddings.weight": known["position_embedding.weight"],
        "embeddings.token_type_embeddings.weight": torch.zeros(1, width),
    }
    names = {
        "output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        found[f"embeddings.LayerNorm.{kind}"] = known[f"norm.{kind}"]
        for layer in range(len(ours.blocks)):
            there = f"encoder.layer.{layer}"
            for name, other in names.items():
                found[f"{there}.{other}.{kind}"] = known[f"blocks.{layer}.{name}.{kind}"]
            joint = known[f"blocks.{layer}.query_key_value.{kind}"].unflatten(0, (heads, 3, width // heads))
            for part, name in zip(joint.unbind(1), ("query", "key", "value"), strict=True):
                found[f"{there}.attention.self.{name}.{kind}"] = part.flatten(0, 1)
    return found


def test_the_lstm_is_torchs_protein_by_protein():
    model, sample = backbone(TINY["lstm"]), proteins(LENGTHS)
    assert isinstance(model, LSTM)
    for protein, found in zip(sample, states(model, sample), strict=True):
        with torch.no_grad():
            embedded = model.token_embedding(protein)
            ahead, back = embedded, embedded.flip(0)
            for one, other in zip(model.ahead, model.back, strict=True):
                ahead, back = one(ahead)[0], other(back)[0]
        back = back.flip(0)
        torch.testing.assert_close(found[1:], torch.cat((ahead, back), dim=1)[1:], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[0], torch.cat((ahead[-1], back[0])), rtol=0, atol=1e-6)


def test_the_residual_network_is_a_padded_one_with_masks():
    model, sample = backbone(TINY["resnet"]).double(), proteins(LENGTHS)  # rounding alone comes to 4e-6 in float32
    assert isinstance(model, ResNet)
    padded = nn.utils.rnn.pad_sequence(sample, batch_first=True)  # (B, L)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(protein)).double() for protein in sample], batch_first=True)[
        ..., None
    ]
    with torch.no_grad():
        x = model.token_embedding(padded) + sinusoids(torch.arange(padded.shape[1]), 24)
        x = model.norm(x)

        def convolved(convolution: nn.Conv1d, x: Tensor) -> Tensor:
            return convolution((x * mask).transpose(1, 2)).transpose(1, 2)

        for block in model.blocks:
            y = F.gelu(block.first_norm(convolved(block.first, x)))
            x = F.gelu(x + block.second_norm(convolved(block.second, y)))
    for row, protein, found in zip(x, sample, states(model, sample), strict=True):
        torch.testing.assert_close(found[1:], row[1 : len(protein)], rtol=0, atol=1e-6)
        if len(protein) > 1:
            torch.testing.assert_close(found[0], row[1 : len(protein)].mean(dim=0), rtol=0, atol=1e-6)


def test_unirep_is_its_published_cell_step_by_step():
    """In numpy from the weights alone: the cell, the weights' normalisation, and the mean over all L + 1 states at [CLS]."""
    model, sample = backbone(TINY["unirep"]), proteins(LENGTHS)
    known = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    matrix = {
        name: known[f"{name}.gain"][:, None] * direction / np.sqrt((direction**2).sum(axis=1, keepdims=True))
        for name in ("input_factor", "state_factor", "input_gates", "state_gates")
        for direction in [known[f"{name}.direction"]]
    }
    for protein, found in zip(sample, states(model, sample), strict=True):
        hidden = cell = np.zeros(20)
        after = []  # the states after the start token and after each residue
        for token in protein.tolist():
            x = known["token_embedding.weight"][token]
            product = (matrix["input_factor"] @ x) * (matrix["state_factor"] @ hidden)
            gates = matrix["input_gates"] @ x + matrix["state_gates"] @ product + known["bias"]
            entry, forget, leave, update = np.split(gates, 4)
            cell = expit(forget) * cell + expit(entry) * np.tanh(update)
            hidden = expit(leave) * np.tanh(cell)
            after.append(hidden)
        assert len(after) == len(protein)
        np.testing.assert_allclose(found[1:], np.array(after)[1:], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[0], np.mean(after, axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_of_a_matrix_that_multiplies_many_times(frozen: bool):
    """As autograd's own, in float64, where each product goes into the next; a second backward pass adds the same again."""
    rows, deep = torch.rand(5, 7, dtype=torch.float64, requires_grad=True), torch.rand(7, 7, dtype=torch.float64)
    found = []
    for function in (multiplication_by, lambda matrix: partial(F.linear, weight=matrix)):
        matrix = deep.clone().requires_grad_(not frozen)
        multiply = function(matrix)
        first = multiply(rows)
        second = multiply(first[:3].sin())
        total = (second.cos() * multiply(second)).sum() + first.square().sum()
        rows.grad = None
        total.backward(retain_graph=True)
        total.backward()
        found.append((rows.grad, matrix.grad))
    for ours, plain in zip(*found, strict=True):
        if plain is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_the_residues_and_their_trigrams():
    one_hot, protvec = backbone(TINY["one_hot"]), backbone(TINY["protvec"])
    protein = torch.tensor([vocabulary.CLS, *(vocabulary.IDS[letter] for letter in "ACA")])
    (found,) = states(one_hot, [protein])
    assert found[1:].argmax(dim=1).tolist() == protein[1:].tolist()
    assert found[0, vocabulary.IDS["A"]] == pytest.approx(2 / 3)
    inside = torch.tensor([vocabulary.CLS, *(vocabulary.IDS[letter] for letter in "GACAG")])
    (alone,), (longer,) = states(protvec, [protein]), states(protvec, [inside])
    assert torch.equal(alone[2], longer[3])  # ACA in both
    assert not torch.equal(alone[1], longer[2])  # nothing, or G, before it
