"""Every metric equals an independent computation of its definition, under one, two and three processes."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proteinlm.records.bootstrap import bootstrap
from proteinlm.tasks.metrics import (
    CONTACT_SCORES,
    ContactPrecision,
    ProteinAccuracy,
    RecordMetric,
    Regression,
    ResidueAccuracy,
    ResidueLoss,
)
from tests.runs import in_group


class Protein(NamedTuple):
    logits: Tensor  # (L, L) of pairs
    contacts: Tensor  # (L, L) bool
    resolved: Tensor  # (L,) bool


def protein(length: int, seed: int, levels: int = 0, resolved: float = 0.8) -> Protein:
    """Random symmetric logits, of few `levels` if given so that many tie."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(length, length, generator=generator)
    if levels:
        logits = torch.randint(levels, (length, length), generator=generator).float()
    contacts = torch.rand(length, length, generator=generator) < 0.3
    upper = torch.triu(torch.ones(length, length, dtype=torch.bool))
    return Protein(
        torch.where(upper, logits, logits.T),
        torch.where(upper, contacts, contacts.T),
        torch.rand(length, generator=generator) < resolved,
    )


def brute_force_precision(example: Protein, least: int, fraction: int) -> float | None:
    """The definition, pair by pair; None for a protein without a pair."""
    length = int(example.resolved.sum())
    pairs = []
    for i in range(len(example.resolved)):
        for j in range(i + 1, len(example.resolved)):
            if example.resolved[i] and example.resolved[j] and j - i >= least:
                pairs.append((-example.logits[i, j].item(), i, j))
    chosen = sorted(pairs)[: max(1, length // fraction)]
    return sum(bool(example.contacts[i, j]) for _, i, j in chosen) / len(chosen) if chosen else None


def legacy_counts(example: Protein) -> tuple[int, int]:
    """Correct and total as ProteinLM defines them, on the padded matrix with its [CLS] row and column."""
    residues = len(example.resolved)
    seq_len, padded = residues + 1, residues + 4
    separation = (torch.arange(residues)[:, None] - torch.arange(residues)).abs()
    valid = example.resolved[:, None] & example.resolved & (separation >= 6)
    labels = torch.full((padded, padded), -1)
    labels[1:seq_len, 1:seq_len] = example.contacts.long().masked_fill(~valid, -1)
    probability = torch.zeros(padded, padded, dtype=torch.float64)
    probability[1:seq_len, 1:seq_len] = torch.sigmoid(example.logits.double())
    masked = (probability * (labels != -1)).view(-1)
    selected = labels.view(-1)[masked.topk((seq_len - 1) // 5).indices]
    selected[selected < 0] = 0
    return int(selected.sum()), selected.numel()


def contact_scores(examples: list[Protein]) -> ContactPrecision:
    metric = ContactPrecision()
    for record, example in enumerate(examples):
        metric.update(*example, record)
    return metric


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    levels=st.sampled_from([0, 2, 5]),
    resolved=st.sampled_from([0.2, 0.8, 1.0]),
)
def test_contact_precision_is_the_brute_force_one(length, seed, levels, resolved):
    example = protein(length, seed, levels, resolved)
    per_record = contact_scores([example]).per_record()
    for least in (6, 12, 24):
        for fraction, name in ((1, "l"), (2, "l2"), (5, "l5")):
            sample = per_record[f"precision_at_{name}_separation_{least}"]
            expected = brute_force_precision(example, least, fraction)
            assert sample.uncounted.tolist() == ([0] if expected is None else [])
            assert expected is None or sample.estimate() == pytest.approx(expected, abs=1e-12)


def test_contact_precision_is_a_mean_over_proteins_that_have_pairs():
    examples = [protein(length, seed=length) for length in (3, 30, 9, 24, 31)]
    metric = contact_scores(examples)
    expected = [brute_force_precision(example, 24, 5) for example in examples]
    sample = metric.per_record()["precision_at_l5_separation_24"]
    assert expected[0] is expected[2] is expected[3] is None
    assert sample.uncounted.tolist() == [0, 2, 3]
    assert sample.n == 2
    assert metric.compute()["precision_at_l5_separation_24"] == pytest.approx(np.mean([expected[1], expected[4]]))


def test_ties_go_to_the_lower_pair():
    contacts = torch.zeros(12, 12, dtype=torch.bool)
    contacts[0, 6] = contacts[6, 0] = True
    constant = Protein(torch.zeros(12, 12), contacts, torch.ones(12, dtype=torch.bool))
    scores = contact_scores([constant]).compute()
    assert scores["precision_at_l5_separation_6"] == 1 / 2  # (0, 6), (0, 7)
    assert scores["precision_at_l_separation_6"] == 1 / 12


def test_the_legacy_number_is_what_proteinlm_computed():
    examples = [
        protein(40, seed=0, resolved=1),
        protein(57, seed=1, resolved=0.7),
        protein(9, seed=2),
        protein(4, seed=3),
    ]
    counts = [legacy_counts(example) for example in examples]
    expected = sum(correct for correct, _ in counts) / sum(total for _, total in counts)
    assert contact_scores(examples).compute()["legacy_precision_at_l5"] == pytest.approx(expected, abs=1e-12)


def test_legacy_entries_that_do_not_exist_are_errors():
    logits, contacts, _ = protein(30, seed=0)
    resolved = torch.zeros(30, dtype=torch.bool)
    resolved[[0, 10]] = True  # one pair, twice, where 30 // 5 = 6 entries are asked for
    example = Protein(logits, contacts | True, resolved)
    assert legacy_counts(example) == (2, 6)
    assert contact_scores([example]).compute()["legacy_precision_at_l5"] == pytest.approx(2 / 6)


def test_the_legacy_number_is_half_as_deep_on_unique_pairs():
    example = protein(100, seed=1, resolved=1)
    best = brute_force_precision(example, 6, fraction=10)
    assert contact_scores([example]).compute()["legacy_precision_at_l5"] == pytest.approx(best)


def test_a_diverged_model_has_no_contact_precision():
    example = protein(40, seed=0, resolved=1)
    example.logits[3, 20] = torch.nan
    assert all(score.isnan() for score in contact_scores([example]).compute().values())


def packed_residues(lengths: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (T, 3), targets (T,) with [CLS] and a fifth of the residues ignored, starts (B + 1,)."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *np.cumsum(np.array(lengths, int) + 1)], dtype=torch.int32)
    tokens = int(starts[-1])
    targets = torch.randint(3, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.2] = -1
    targets[starts[:-1].long()] = -1
    return torch.randn(tokens, 3, generator=generator), targets, starts


def test_residue_accuracy_counts_labelled_residues_and_keeps_proteins():
    logits, targets, starts = packed_residues([7, 1, 30, 4], seed=0)
    targets[starts[1] : starts[2]] = -1
    targets[starts[3] + 1 :] = torch.tensor([-1, logits[starts[3] + 2].argmax(), -1, -1])  # one labelled, and right
    filler = torch.tensor([starts[-1] + 5, starts[-1] + 5], dtype=torch.int32)  # a packed stream may end in filler
    metric = ResidueAccuracy()
    metric.update(
        torch.cat([logits, torch.zeros(5, 3)]),
        torch.cat([targets, torch.zeros(5, dtype=torch.int64)]),
        torch.cat([starts, filler]),
        torch.tensor([5, 9, 2, 6]),
    )
    labelled = targets != -1
    right = logits.argmax(1) == targets
    assert metric.compute()["accuracy"] == pytest.approx(right[labelled].double().mean().item())
    sample = metric.per_record()["accuracy"]
    assert sample.record.tolist() == [2, 5, 6, 9]
    assert sample.value[0, 2] == 1
    assert sample.uncounted.tolist() == [9]


def test_protein_accuracy_is_top_1():
    metric = ProteinAccuracy()
    metric.update(torch.eye(4)[[0, 1, 2]], torch.tensor([0, 1, 3]), torch.tensor([0, 1, 2]))
    metric.update(torch.eye(4)[[3]], torch.tensor([3]), torch.tensor([3]))
    assert metric.compute()["accuracy"] == 3 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # bfloat16 predictions tie
def test_regression_scores_the_whole_set_as_scipy_does(dtype):
    from scipy.stats import spearmanr

    target, prediction = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    prediction = (prediction + target).to(dtype)
    metric = Regression()
    for records in torch.arange(500).split(77):
        metric.update(prediction[records], target[records], records)
    scores = metric.compute()
    exact = prediction.double()
    assert scores["spearman"].item() == pytest.approx(spearmanr(exact, target).statistic, abs=1e-12)
    assert scores["mean_squared_error"].item() == pytest.approx((exact - target).square().mean().item())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_records_there_is_no_score():
    for metric in fill([]):
        assert all(sample.n == 0 for sample in metric.per_record().values())
        assert all(score.isnan() for score in metric.compute().values())


def test_a_record_that_comes_twice_is_an_error():
    metric = ProteinAccuracy()
    metric.update(torch.eye(2), torch.tensor([0, 1]), torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="record 4 was scored twice"):
        metric.compute()


def fill(records: list[int]) -> list[RecordMetric]:
    """All metrics after the given records of a made-up test set, one update each."""
    metrics = [ResidueAccuracy(), ProteinAccuracy(), Regression(), ContactPrecision(), ResidueLoss()]
    for record in records:
        which = torch.tensor([record])
        generator = torch.Generator().manual_seed(record)
        metrics[0].update(*packed_residues([5 + record], seed=record), which)
        metrics[1].update(torch.randn(1, 3, generator=generator), torch.tensor([record % 3]), which)
        metrics[2].update(torch.randn(1, generator=generator), torch.randn(1, generator=generator), which)
        metrics[3].update(*protein(4 + 3 * record, seed=record), record)
        metrics[4].update(torch.rand(2, generator=generator), torch.tensor([1, 3]), torch.tensor([0, 5]), which)
    return metrics


def read(metrics: list[RecordMetric]) -> list[tuple[str, float, tuple[float, float], list[int]]]:
    """Everything that is reported of the metrics: scores, intervals, records."""
    rows = []
    for metric in metrics:
        scores, per_record = metric.compute(), metric.per_record()
        for name, sample in per_record.items():
            rows.append((name, scores[name].item(), tuple(bootstrap(sample, resamples=20)), sample.record.tolist()))
    return rows


SHARES = {1: [range(12)], 2: [range(9), range(9, 12)], 3: [range(0, 12, 2), [], range(1, 12, 2)]}  # records per process


def score_in_process(rank: int, directory: str) -> None:
    for processes, shares in SHARES.items():
        if rank < processes:
            store = torch.distributed.FileStore(f"{directory}/store-{processes}", processes)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
            metrics = fill(list(shares[rank]))
            torch.save((read(metrics), read(metrics)), f"{directory}/{processes}-{rank}.pt")
            torch.distributed.destroy_process_group()


def test_processes_with_uneven_shares_report_what_one_would(tmp_path: Path):
    in_group(3, lambda: score_in_process(int(os.environ["RANK"]), str(tmp_path)))
    expected = read(fill(list(range(12))))
    assert len(expected) == 5 + len(CONTACT_SCORES)
    for processes in SHARES:
        for rank in range(processes):
            for reported in torch.load(tmp_path / f"{processes}-{rank}.pt"):
                assert reported == expected  # to the last bit, and again after the states were given back


def test_residue_loss_is_the_mean_over_targets_of_each_protein():
    metric = ResidueLoss()
    losses, positions = torch.tensor([1.0, 2.0, 6.0, 0.5]), torch.tensor([1, 4, 6, 11])
    starts = torch.tensor([0, 5, 8, 10, 12, 12], dtype=torch.int32)  # the third protein has no target, then a filler
    metric.update(losses, positions, starts, torch.tensor([3, 1, 0, 2]))
    sample = metric.per_record()["loss"]
    assert sample.record.tolist() == [0, 1, 2, 3]
    assert sample.value.tolist() == [[0.0, 6.0, 0.5, 1.5]]
    assert sample.weight.tolist() == [0, 1, 1, 2]
    assert sample.estimate() == pytest.approx(9.5 / 4)
