"""Masks are exact in number, touch residues only, and depend on (seed, epoch, record number) and nothing else."""

import itertools

import numpy as np
import pytest
import torch

from proteinlm import vocabulary
from proteinlm.data.batches.language_model import MaskedBatch, MaskedProteins, ShareOfSteps, training_loader
from proteinlm.data.batches.masking import Masked, everything, mask, shown_as
from proteinlm.data.batches.packing import pack, pack_letters
from proteinlm.data.store.sequences import Sequences
from tests.data.test_packing import LONGEST, random_sequences, schedule


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return random_sequences(300, shortest=1, longest=100)


def masked(sequences: Sequences, records: list[int], seed: int = 3, epoch: int = 1, percent: int = 15) -> Masked:
    numbers = np.array(records)
    packed = pack(sequences, numbers, longest=LONGEST, seed=seed, epoch=epoch)
    return mask(packed, numbers, percent=percent, seed=seed, epoch=epoch)


@pytest.mark.parametrize("percent", [1, 15, 40, 100])
def test_each_protein_has_exactly_its_share_of_targets(sequences: Sequences, percent: int):
    result = masked(sequences, list(range(300)), percent=percent)
    starts = result.packed.starts
    for first, end in itertools.pairwise(starts):
        residues = int(end - first) - 1
        inside = (result.positions >= first) & (result.positions < end)
        assert int(inside.sum()) == -(-percent * residues // 100)
    assert not torch.isin(result.positions, starts).any(), "[CLS] is never a target"
    assert (result.positions.diff() > 0).all()


def test_targets_are_what_stood_there_and_nothing_else_changed(sequences: Sequences):
    result = masked(sequences, list(range(300)))
    original = pack(sequences, np.arange(300), longest=LONGEST, seed=3, epoch=1).tokens
    assert torch.equal(original[result.positions], result.targets)
    elsewhere = torch.ones(len(original), dtype=torch.bool)
    elsewhere[result.positions] = False
    assert torch.equal(original[elsewhere], result.packed.tokens[elsewhere])


def test_eighty_ten_ten_with_amino_acids_only(sequences: Sequences):
    shown, target = [], []
    for epoch in range(40):
        result = masked(sequences, list(range(300)), epoch=epoch)
        shown.append(result.packed.tokens[result.positions])
        target.append(result.targets)
    shown, target = torch.cat(shown), torch.cat(target)
    count = len(shown)  # about 60,000: three standard deviations of each share are below 0.005
    is_mask, kept = shown == vocabulary.MASK, shown == target
    replaced = ~is_mask & ~kept
    assert abs(is_mask.float().mean() - 0.8) < 0.006
    assert abs(kept.float().mean() - (0.1 + 0.1 / 20)) < 0.006
    assert set(shown[replaced].tolist()) == set(vocabulary.AMINO_ACID_IDS.tolist())
    frequency = torch.bincount(shown[replaced], minlength=31)[vocabulary.AMINO_ACID_IDS.tolist()] / replaced.sum()
    assert (frequency - 0.05).abs().max() < 0.015
    assert count > 50_000


def test_what_is_shown_is_what_the_probabilities_say(sequences: Sequences):
    seen = np.zeros((31, 31))
    for epoch in range(30):
        result = masked(sequences, list(range(300)), epoch=epoch)
        np.add.at(seen, (result.targets.numpy(), result.packed.tokens[result.positions].numpy()), 1)
    letters = vocabulary.AMINO_ACID_IDS
    expected = shown_as()
    assert expected[letters].sum(axis=1) == pytest.approx(1)
    counts = seen[letters].sum(axis=1, keepdims=True)
    deviation = np.sqrt(np.maximum(expected[letters] * (1 - expected[letters]), 1e-6) / counts)
    assert (np.abs(seen[letters] / counts - expected[letters]) < 5 * deviation + 1e-9).all()
    assert (seen[letters][:, expected[letters].sum(axis=0) == 0] == 0).all()


def test_everything_is_each_residue_and_no_opening():
    packed = pack_letters([np.frombuffer(protein, np.uint8) for protein in (b"ACD", b"W")])
    result = everything(packed)
    assert result.positions.tolist() == [1, 2, 3, 5]
    assert result.targets.tolist() == vocabulary.encode("ACDW").tolist()
    assert torch.equal(result.packed.tokens, packed.tokens)


def test_positions_are_drawn_uniformly(sequences: Sequences):
    record = int(sequences.lengths().argmax())
    hits = torch.zeros(LONGEST + 1)
    for epoch in range(2000):
        hits[masked(sequences, [record], epoch=epoch).positions] += 1
    expected = 2000 * 9 / 60
    chi_square = float(((hits[1:] - expected) ** 2 / expected).sum())
    assert chi_square < 110, "far out in the tail for 59 degrees of freedom"


def test_a_protein_is_masked_alike_in_any_company(sequences: Sequences):
    whole = masked(sequences, list(range(50)))
    for record in (0, 17, 49):
        alone = masked(sequences, [record])
        first, end = whole.packed.starts[record], whole.packed.starts[record + 1]
        assert torch.equal(alone.packed.tokens, whole.packed.tokens[first:end])


def test_seed_epoch_and_record_all_matter(sequences: Sequences):
    reference = masked(sequences, [7], seed=3, epoch=1).positions
    assert not torch.equal(reference, masked(sequences, [7], seed=4, epoch=1).positions)
    assert not torch.equal(reference, masked(sequences, [7], seed=3, epoch=2).positions)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_processes_change_neither_masks_nor_dropout(sequences: Sequences, workers: int):
    plan = schedule(sequences)
    proteins = MaskedProteins(sequences, longest=LONGEST, mask_percent=15, seed=1)

    def batches(world: int, workers: int) -> list[MaskedBatch]:
        shares = [ShareOfSteps(plan, 0, 6, rank, world) for rank in range(world)]
        loaders = [iter(training_loader(proteins, share, workers=workers, pin_memory=False)) for share in shares]
        return [next(loaders[index % world]) for index in range(24)]

    for ours, theirs in zip(batches(world=2, workers=workers), batches(world=1, workers=0), strict=True):
        assert torch.equal(ours.masked.packed.tokens, theirs.masked.packed.tokens)
        assert torch.equal(ours.masked.positions, theirs.masked.positions)
        assert (ours.seed, ours.step_targets) == (theirs.seed, theirs.step_targets)


def test_everything_is_each_residue_and_no_cls():
    packed = pack_letters([np.frombuffer(letters, np.uint8) for letters in (b"ACD", b"WW")])
    result = everything(packed)
    assert result.positions.tolist() == [1, 2, 3, 5, 6]
    assert result.targets.tolist() == vocabulary.encode_bytes(np.frombuffer(b"ACDWW", np.uint8)).tolist()
    assert torch.equal(result.packed.tokens, packed.tokens)


def test_the_chances_of_what_is_shown_are_those_of_the_paper():
    shown, (alanine, cysteine) = shown_as(), vocabulary.encode_bytes(np.frombuffer(b"AC", np.uint8))
    assert shown.shape == (len(vocabulary.TOKENS),) * 2
    assert shown[alanine].sum() == pytest.approx(1)
    assert shown[alanine, vocabulary.MASK] == pytest.approx(0.8)
    assert shown[alanine, cysteine] == pytest.approx(0.1 / 20)
    assert shown[alanine, alanine] == pytest.approx(0.1 + 0.1 / 20)
    assert shown[alanine, vocabulary.CLS] == 0
