"""Each loss is the sum that its formula gives by hand, over the targets that count and no others."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proteinlm.config import LabelledTaskConfig, ModelConfig, SecondaryStructureConfig
from proteinlm.errors import InputError
from proteinlm.models.heads import PairHead
from proteinlm.tasks import TASKS, downstream
from proteinlm.tasks.labelled import LabelledTask
from tests.tasks.test_targets import BRIGHT, CHAIN, FOLD, STRUCTURE, batch, config, proteins

SHAPE = ModelConfig(16, 1, 2, max_positions=32, dropout=0.0)
HEADS = [(task, head) for task in TASKS for head in downstream(task).heads(config(task), SHAPE)]


def module(task: str, says: Any = None) -> LabelledTask:
    """A task whose head says what it is told to."""
    made = downstream(task)(config(task), SHAPE)
    if says is not None:
        made.forward = lambda packed: says
    return made


def test_structure_by_hand():
    logits = torch.randn(5, 3, requires_grad=True)
    made = batch(proteins("secondary_structure", STRUCTURE), 0)
    loss = module("secondary_structure", logits).summed_loss(made)
    first, third = (
        logits[1].log_softmax(0),
        logits[3].log_softmax(0),
    )  # behind [CLS]; the others are unresolved or unknown
    assert loss.item() == pytest.approx(-(first[0] + third[2]).item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[[0, 2, 4]].any()


def test_fold_by_hand():
    logits = torch.zeros(1, 1195)
    loss = module("remote_homology", logits).summed_loss(batch(proteins("remote_homology", FOLD), 0))
    assert loss.item() == pytest.approx(math.log(1195), rel=1e-5)


def test_number_by_hand():
    task = module("fluorescence", torch.tensor([[0.5], [-1.0]]))
    found = proteins("fluorescence", BRIGHT, BRIGHT | {"log_fluorescence": [1.5]})
    task.prepare(found)  # mean 2.5, deviation 1
    assert task.summed_loss(batch(found, 0, 1)).item() == pytest.approx((1 - 0.5) ** 2 + (-1 + 1) ** 2)
    metric = task.metric()
    task.update(metric, task.forward(None), batch(found, 0, 1))
    predictions = metric.per_record()["spearman"].prediction
    assert predictions.tolist() == [[3.0, 1.5]], "in the units of the targets"


def test_contacts_by_hand():
    logits = torch.randn(12, 12, requires_grad=True)
    loss = module("contact", [(logits + logits.T) / 2]).summed_loss(batch(proteins("contact", CHAIN), 0))
    expected = 0.0
    for i in range(12):
        for j in range(i + 6, 12):
            if 3 not in (i, j):
                confidence = torch.sigmoid((logits[i, j] + logits[j, i]) / 2)
                expected -= torch.log(confidence if j - i < 8 else 1 - confidence).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[3].any()
    assert not logits.grad.tril(5).triu(-5).any()


@pytest.mark.parametrize("head", ["mlp", "linear", "residual"])
def test_an_untrained_contact_head_expects_as_many_contacts_as_there_are(head: str):
    chosen = config("contact")
    chosen.head = head
    made = downstream("contact")(chosen, SHAPE).eval()
    found = proteins("contact", CHAIN, CHAIN)
    made.prepare(found)
    assert isinstance(made.head, PairHead)
    far_apart = [(i, j) for i in range(12) for j in range(i + 6, 12) if 3 not in (i, j)]
    near = sum(j - i < 8 for i, j in far_apart)
    nn.init.zeros_(made.head.final.weight)
    (said,) = made.head(torch.randn(13, 16), torch.tensor([0, 13], dtype=torch.int32))
    assert said.sigmoid().flatten().tolist() == pytest.approx([(2 * near + 1) / (2 * len(far_apart) + 2)] * 144)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_every_head_trains_and_is_scored(task: str, head: str):
    records = {
        "secondary_structure": STRUCTURE,
        "contact": CHAIN,
        "remote_homology": FOLD,
        "fluorescence": BRIGHT,
        "stability": {"primary": "ACD", "stability_score": 1.0},
    }
    chosen = config(task)
    chosen.head = head
    made = downstream(task)(chosen, SHAPE)
    both = batch(proteins(task, records[task], records[task]), 0, 1)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.summed_loss(both).backward()
    assert all(parameter.grad is not None for parameter in made.head.parameters())
    torch.optim.SGD(made.parameters(), lr=0.1).step()
    changed = {
        name.split(".")[0] for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"backbone", "head"}
    made.eval()
    made.update(metric := made.metric(), made.forward(both.packed), both)
    assert metric.per_record()[made.score].record.tolist() == [0, 1]


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_head_is_named_with_the_choices(task: str):
    chosen = config(task)
    chosen.head = "enormous"
    with pytest.raises(InputError, match=rf"task.head=enormous is not one of mlp, .*\({task}\)"):
        downstream(task)(chosen, SHAPE)


def test_a_probe_keeps_its_backbone():
    made = downstream("stability")(
        LabelledTaskConfig(name="stability", freeze="backbone"), ModelConfig(16, 1, 2, dropout=0.5)
    )
    made.train()
    packed = batch(proteins("stability", {"primary": "ACD", "stability_score": 1.0}), 0).packed
    hidden = [made.backbone(packed.tokens, packed.starts, packed.longest) for _ in range(2)]
    assert torch.equal(*hidden), "no dropout in what is only read"
    assert not hidden[0].requires_grad
    assert made.head.training
    assert {name for name, part in made.named_children() if any(p.requires_grad for p in part.parameters())} == {"head"}


def test_parts_are_all_that_has_weights():
    made = downstream("stability")(LabelledTaskConfig(name="stability"), SHAPE)
    names = {f"{prefix}.{name}" for prefix, part in made.parts().items() for name in part.state_dict()}
    assert names == set(made.state_dict())
    assert {"scale.mean", "scale.deviation"} <= names


def test_classes_are_three_or_eight():
    with pytest.raises(InputError, match=r"task.classes=4 is neither 3 nor 8"):
        SecondaryStructureConfig(classes=4)
    heads = downstream("secondary_structure").heads(SecondaryStructureConfig(classes=8), SHAPE)
    hidden, starts = torch.randn(5, 16), torch.tensor([0, 5], dtype=torch.int32)
    for make in heads.values():
        said = make()(hidden, starts)
        assert isinstance(said, Tensor)
        assert said.shape == (5, 8)


def test_modules_are_final_and_plain():
    for task in TASKS:
        found = downstream(task)
        assert found.__final__
        assert issubclass(found, nn.Module)
        assert np.all([count > 0 for count in found.splits.values()])


def test_splits_have_the_sizes_that_tape_published():
    """Rao et al. 2019, and the files that they published."""
    assert {task: tuple(downstream(task).splits.values()) for task in TASKS} == {
        "secondary_structure": (8678, 2170, 513, 115, 21),
        "contact": (25299, 224, 40),
        "remote_homology": (12312, 736, 718, 1254, 1272),
        "fluorescence": (21446, 5362, 27217),
        "stability": (53614, 2512, 12851),
    }


def test_no_map_is_drawn_without_a_place_for_it_or_without_its_split(tmp_path: Path):
    found = {"test": proteins("contact", CHAIN), "valid": proteins("contact", CHAIN)}
    for splits, directory, drawn in (
        (("valid", "test"), tmp_path, True),
        (("valid", "test"), None, False),
        (("valid",), tmp_path, False),
    ):
        made = downstream("contact")(config("contact"), SHAPE)
        made.evaluate_on(*splits)
        made.draw(found, 0, directory)
        assert (made.drawn is not None) == drawn
