"""Every record has its turn exactly once an epoch, in steps that do not depend on the number of processes."""

import itertools
import math
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proteinlm import vocabulary
from proteinlm.data.batches import randomness
from proteinlm.data.batches import schedule as schedule_module
from proteinlm.data.batches.language_model import MaskedProteins, ShareOfSteps, validation_loader
from proteinlm.data.batches.packing import cut, pack, pack_letters
from proteinlm.data.batches.randomness import draws
from proteinlm.data.batches.schedule import Schedule, random_order
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError

LONGEST = 60


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return random_sequences(200, shortest=5, longest=100)


def random_sequences(count: int, shortest: int, longest: int) -> Sequences:
    generator = np.random.default_rng(0)
    letters = np.array(list(vocabulary.AMINO_ACIDS))
    proteins = ["".join(generator.choice(letters, n)) for n in generator.integers(shortest, longest + 1, count)]
    return Sequences(pa.chunked_array([pa.array(proteins[i : i + 64], pa.large_string()) for i in range(0, count, 64)]))


def schedule(sequences: Sequences, **changes: int) -> Schedule:
    settings = {"longest": LONGEST, "budget": 300, "per_step": 4, "seed": 1, "mask_percent": 15} | changes
    return Schedule(sequences.lengths(), **settings)


def test_an_epoch_visits_each_record_once_within_the_budget(sequences: Sequences):
    for epoch in range(3):
        pieces = schedule(sequences).epoch(epoch)
        assert sorted(np.concatenate(pieces)) == list(range(len(sequences)))
        tokens = [np.minimum(sequences.lengths()[piece], LONGEST).sum() + len(piece) for piece in pieces]
        assert max(tokens) <= 300
        assert all(a + b > 300 for a, b in itertools.pairwise(tokens)), "two neighbours would have fitted in one"


def test_draws_are_splitmix64s():
    """Of the seed 1234567, as Rosetta Code's task gives them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert randomness.draws(np.uint64(1234567), np.arange(5)).tolist() == known


def test_no_two_uses_share_a_stream():
    assert len({randomness.key(purpose, 1).item() for purpose in randomness.Purpose.__members__.values()}) == 5


def greedy(order: list[int], tokens: list[int], budget: int) -> list[list[int]]:
    """One record after the other: into the open piece while it fits."""
    pieces: list[list[int]] = []
    room = 0
    for record, size in zip(order, tokens, strict=True):
        if not pieces or size > room:
            pieces.append([])
            room = budget
        pieces[-1].append(record)
        room -= size
    return pieces


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 24), st.randoms(use_true_random=False))
@example([4, 4, 4, 4], 8, Random(0))
@example([8, 1, 7, 8, 9, 8], 8, Random(0))
@example([1] * 40 + [20] * 3, 20, Random(0))
def test_a_cut_is_the_greedy_one(tokens: list[int], budget: int, random: Random):
    order = list(range(len(tokens)))
    random.shuffle(order)
    pieces = cut(np.array(order), np.array(tokens, np.int32), budget)
    assert [piece.tolist() for piece in pieces] == greedy(order, tokens, budget)


def test_a_cut_of_many_records_is_the_greedy_one():
    generator = np.random.default_rng(0)
    for sizes in (np.full(5_000, 32), generator.integers(1, 400, 5_000), np.repeat([1, 900], [4_000, 1_000])):
        expected = greedy(list(range(len(sizes))), sizes.tolist(), 1_024)
        assert [piece.tolist() for piece in cut(np.arange(len(sizes)), sizes, 1_024)] == expected
    assert len(expected[0]) == 1_024, "a piece that its budget holds exactly"


def test_epochs_and_seeds_differ_and_repeat(sequences: Sequences):
    first = np.concatenate(schedule(sequences).epoch(0))
    assert np.array_equal(first, np.concatenate(schedule(sequences).epoch(0)))
    assert not np.array_equal(first, np.concatenate(schedule(sequences).epoch(1)))
    assert not np.array_equal(first, np.concatenate(schedule(sequences, seed=2).epoch(0)))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_each_step(sequences: Sequences, world: int):
    plan = schedule(sequences)
    whole = [micro_batch for step in plan.steps(0, 30) for micro_batch in step]
    shares = [list(ShareOfSteps(plan, 0, 30, rank, world)) for rank in range(world)]
    merged = sorted((m for share in shares for m in share), key=lambda m: m.number)
    assert [m.number for m in merged] == list(range(len(whole)))
    assert all(np.array_equal(a.records, b.records) for a, b in zip(merged, whole, strict=True))
    assert {m.step_targets for m in merged[:4]} == {whole[0].step_targets}


def test_starting_in_the_middle_gives_the_rest(sequences: Sequences):
    plan = schedule(sequences)  # about 30 micro-batches an epoch: step 7 reaches into the second
    whole = list(plan.steps(0, 20))
    for first in (1, 7, 8, 19):
        for ours, theirs in zip(plan.steps(first, 20), whole[first:], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert (a.number, a.epoch, a.step_targets) == (b.number, b.epoch, b.step_targets)
                assert np.array_equal(a.records, b.records)
    assert {m.epoch for step in whole for m in step} >= {0, 1, 2}


def test_an_epoch_that_is_over_is_not_planned_again(sequences: Sequences, monkeypatch: pytest.MonkeyPatch):
    planned: list[int] = []
    monkeypatch.setattr(schedule_module, "cut", lambda *given: planned.append(1) or cut(*given))
    plan = schedule(sequences, per_step=1)
    steps = 3 * len(plan.epoch(0))
    whole = [step[0].records.tolist() for step in plan.steps(0, steps)]
    before = len(planned)
    assert [step[0].records.tolist() for step in plan.steps(steps - 2, steps)] == whole[-2:]
    assert len(planned) <= before + 2, "the one that it ends in, and the next if it reaches into it"


def test_totals_are_what_the_steps_contain(sequences: Sequences):
    plan = schedule(sequences)
    totals = plan.totals(9)
    lengths = np.concatenate([np.minimum(sequences.lengths()[m.records], LONGEST) for s in plan.steps(0, 9) for m in s])
    assert totals.residues == lengths.sum()
    assert totals.tokens == lengths.sum() + len(lengths)
    assert totals.squares == ((lengths + 1) ** 2).sum()
    assert totals.targets == sum(-(-15 * n // 100) for n in lengths)
    assert totals.targets == sum(step[0].step_targets for step in plan.steps(0, 9))
    records = np.concatenate([m.records for s in plan.steps(0, 9) for m in s])
    assert totals.cropped == sum(sequences.lengths()[record] > LONGEST for record in records.tolist())
    assert any(sequences.lengths()[records] == LONGEST), "what just fits is not cropped"
    first, second = (len(plan.epoch(number)) for number in range(2))
    assert first < 9 * plan.per_step < first + second
    assert totals.epochs == pytest.approx(1 + (9 * plan.per_step - first) / second)


def test_a_micro_batch_is_in_order_of_length(sequences: Sequences):
    for step in schedule(sequences).steps(0, 5):
        for micro_batch in step:
            assert (np.diff(np.minimum(sequences.lengths()[micro_batch.records], LONGEST)) >= 0).all()


def test_a_crop_may_begin_anywhere_that_leaves_enough():
    letters = np.frombuffer(vocabulary.AMINO_ACIDS[:12].encode(), np.uint8)
    column = Sequences(pa.chunked_array([pa.array([letters.tobytes().decode()], pa.large_string())]))
    crops = [pack(column, np.array([0]), longest=9, seed=0, epoch=epoch).tokens[1:].tolist() for epoch in range(200)]
    whole = vocabulary.encode_bytes(letters).tolist()
    assert {tuple(crop) for crop in crops} == {tuple(whole[first : first + 9]) for first in range(4)}


def test_a_long_protein_gives_a_crop_that_varies_by_epoch_alone(sequences: Sequences):
    record = int(sequences.lengths().argmax())
    letters = sequences.tokens(record)
    crops = set()
    for epoch in range(8):
        packed = pack(sequences, np.array([record]), longest=LONGEST, seed=0, epoch=epoch)
        again = pack(sequences, np.array([0, record, 5]), longest=LONGEST, seed=0, epoch=epoch)
        tokens = packed.tokens.numpy()
        assert len(tokens) == LONGEST + 1
        assert np.array_equal(tokens, again.tokens.numpy()[again.starts[1] : again.starts[2]])
        windows = np.lib.stride_tricks.sliding_window_view(letters, LONGEST)
        crops.add(int((windows == tokens[1:]).all(1).argmax()))
        assert (windows == tokens[1:]).all(1).any()
    assert len(crops) > 2


def test_packed_tokens_are_the_proteins_each_after_cls():
    packed = pack_letters([np.frombuffer(protein, np.uint8) for protein in (b"ACD", b"mk", b"W")])
    assert vocabulary.decode(packed.tokens.numpy()) == "[CLS]ACD[CLS]MK[CLS]W"
    assert packed.starts.tolist() == [0, 4, 7, 9]
    assert (packed.longest, packed.proteins) == (4, 3)


@pytest.mark.parametrize("world", [1, 3, 200])
def test_validation_scores_each_record_once(sequences: Sequences, world: int):
    proteins = MaskedProteins(sequences, longest=LONGEST, mask_percent=15, seed=0)
    loaders = [
        validation_loader(proteins, budget=300, tokens=0, rank=rank, world=world, workers=0, pin_memory=False)
        for rank in range(world)
    ]
    assert sorted(r for loader in loaders for batch in loader for r in batch.records.tolist()) == list(range(200))


def test_a_budget_that_cannot_hold_the_longest_protein_is_refused(sequences: Sequences):
    with pytest.raises(InputError, match=r"train.micro_batch_tokens=60 cannot hold .*60 residues"):
        schedule(sequences, budget=60)
    schedule(sequences, budget=61)  # 60 residues and [CLS] just fit


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 17, 64, 65])
def test_an_order_holds_each_number_once(count: int):
    order = random_order(count, np.uint64(7))
    assert sorted(order.tolist()) == list(range(count))


@pytest.mark.parametrize(("count", "pocket"), [(1, 2**15), (40_000, 2**15), (2_200_000, 2**15), (300_000, 2)])
def test_an_order_is_that_of_the_random_bits(count: int, pocket: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedule_module, "_POCKET", pocket)  # the last has more than 16 bits number
    bits = draws(np.uint64(7), np.arange(count)) >> np.uint64(max(1, (count - 1).bit_length()))
    assert np.array_equal(random_order(count, np.uint64(7)), np.argsort(bits, kind="stable"))


def test_a_micro_batch_is_filled_to_its_last_token():
    tens = Schedule(np.full(30, 9), longest=9, budget=100, per_step=1, seed=0)  # nine residues and [CLS] each
    assert [len(piece) for piece in tens.epoch(0)] == [10, 10, 10]


@pytest.mark.parametrize("steps", [1, 10, 40])
def test_totals_are_sums_over_the_proteins_of_the_steps(sequences: Sequences, steps: int):
    plan = schedule(sequences)
    seen = [micro_batch for step in plan.steps(0, steps) for micro_batch in step]
    assert len(seen) == 4 * steps
    given = [int(sequences.lengths()[record]) for micro_batch in seen for record in micro_batch.records]
    residues = [min(length, LONGEST) for length in given]
    totals = schedule(sequences).totals(steps)
    assert totals.residues == sum(residues)
    assert totals.tokens == sum(length + 1 for length in residues)
    assert totals.squares == sum((length + 1) ** 2 for length in residues)
    assert totals.targets == sum(math.ceil(15 * length / 100) for length in residues)
    assert totals.cropped == sum(length > LONGEST for length in given) > 0
    in_epoch = [len(plan.epoch(micro_batch.epoch)) for micro_batch in seen]
    assert totals.epochs == pytest.approx(sum(1 / count for count in in_epoch))


def test_totals_of_steps_that_end_with_an_epoch(sequences: Sequences):
    whole = len(schedule(sequences).epoch(0))
    totals = schedule(sequences, per_step=1).totals(whole)
    assert (totals.epochs, totals.residues) == (1, np.minimum(sequences.lengths(), LONGEST).sum())
