"""All arms of a comparison work on the same masked residues, each is timed in turn, and every figure has its arm."""

import functools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.bench import __main__ as bench
from experiments.bench import embed, growth, peers, published, small, tracking, train, workload
from experiments.bench.figures import Figure, ratio, ratio_of_totals, time_in_turns
from proteinlm import load
from proteinlm.config import ModelConfig
from proteinlm.models.kernels import compiler
from proteinlm.records.bootstrap import Interval
from tests.experiments.sweeps import made_up

SHAPE = ModelConfig(32, 2, 4, dropout=0.0)


@pytest.fixture(scope="module")
def sample() -> list[np.ndarray]:
    return workload.proteins(9, 60, None)


@pytest.mark.parametrize("by_length", [False, True])
def test_peers_are_given_the_same_masked_residues(sample: list[np.ndarray], by_length: bool):
    ours = [
        (shown, target)
        for batch in workload.packed_steps(sample, 256)
        for shown, target in zip(batch.packed.tokens[batch.positions].tolist(), batch.targets.tolist(), strict=True)
    ]
    theirs = [
        pair
        for batch in workload.padded_batches(sample, 4, by_length)
        for pair in zip(batch.tokens[batch.labels >= 0].tolist(), batch.labels[batch.labels >= 0].tolist(), strict=True)
    ]
    assert sorted(ours) == sorted(theirs)
    real = sum(int(batch.real.sum()) for batch in workload.padded_batches(sample, 4, by_length))
    assert real == sum(map(len, sample)) + len(sample)


def test_arms_take_turns_and_the_first_rounds_do_not_count():
    called: list[str] = []
    arms = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = time_in_turns(arms, 3, warming=2)
    assert called == list("ab" * 5)
    assert [len(taken) for taken in seconds.values()] == [3, 3]
    assert ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0


def test_a_ratio_of_totals_has_the_interval_of_other_rounds():
    value, interval = ratio_of_totals([2.0, 9.0, 4.0], [1.0, 2.0, 1.0])
    assert value == 15 / 4
    assert interval is not None
    assert 2.0 <= interval.low < value < interval.high <= 4.5
    value, interval = ratio_of_totals([3.0] * 30, [1.0] * 30)
    assert (value, interval) == (3.0, (3.0, 3.0))
    assert ratio_of_totals([3.0], [2.0]) == (1.5, None)
    assert Figure("a / b", 3.75, "times", "at least 2", Interval(2.5, 4.25)).text() == "3.75 (2.50 to 4.25)"
    assert Figure("a", 3750.0, "residues/s").text() == "3,750.00"


def test_every_arm_has_a_figure(sample: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    samples = [sample[:4], sample[4:]]
    monkeypatch.setattr(train, "WARMING", 1)
    monkeypatch.setattr(embed, "WARMING", 1)
    monkeypatch.setattr(train, "PRODUCT_FLOPS", 1e7)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    named = [figure.what for figure in train.train(SHAPE, samples, bf16=True)]
    for arm in ("MegatronBertForMaskedLM, padded", "EsmForMaskedLM, padded, sorted by length"):
        assert f"{arm}, fp32" in named
        for mine, theirs in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
            assert f"proteinlm, {mine} / {arm}, {theirs}" in named
    without = [figure.what for figure in train.train(SHAPE, samples, bf16=False)]
    assert without
    assert not any("bf16" in name for name in without)
    figures = embed.embed(SHAPE, samples, bf16=True)
    assert len(figures) == 2 * (1 + 2 * 4)
    assert all(figure.value > 0 for figure in figures)


def test_published_shapes_are_embedded_as_esm_embeds_them(
    sample: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(published.SHAPES, "8M", (32, 2, 4))
    published.save("8M", tmp_path)
    ours = load(tmp_path, device="cpu", precision="fp32").embed([letters.tobytes().decode() for letters in sample])
    batches = [*published.batches(sample, list(range(len(sample))))]
    theirs = published.their_embedding(peers.read_esm(tmp_path), batches, "fp32")
    np.testing.assert_allclose(ours, torch.cat(theirs).numpy(), atol=1e-5)
    arguments = ["published", "--proteins", "9", "--longest", "40", "--repeats", "1"]
    assert bench.main(["--output", str(tmp_path), *arguments]) == 0
    written = json.loads((tmp_path / "published-8M-0-fp32.json").read_text())
    assert [figure["what"] for figure in written["figures"]][-2:] == [
        "proteinlm / EsmModel, padded",
        "proteinlm / EsmModel, padded, sorted by length",
    ]
    assert all(figure["value"] > 0 for figure in written["figures"])
    assert "written: " in capsys.readouterr().out


def test_each_round_has_proteins_of_its_own(monkeypatch: pytest.MonkeyPatch):
    seen: list[list[int]] = []
    forward = train.Ours.forward

    def remember(model: train.Ours, batch: train.Masked) -> torch.Tensor:
        seen.append(batch.packed.tokens.tolist())
        return forward(model, batch)

    monkeypatch.setattr(train.Ours, "forward", remember)
    steps = [workload.packed_steps(sample, 256) for sample in workload.samples(3, 256, 60, None)]
    step = train.our_step(SHAPE, steps)
    for _ in steps:
        step()
    assert seen == [batch.packed.tokens.tolist() for [batch] in steps]
    assert len({tuple(tokens) for tokens in seen}) == 3


def test_growth_is_held_against_its_base(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(growth, "SHAPES", ((16, 1, 2), (16, 3, 2)))
    monkeypatch.setattr(growth, "BASE", (16, 1, 2))
    monkeypatch.setattr(growth, "CORPORA", (400, 800))
    monkeypatch.setattr(growth, "STEPS", 2)
    monkeypatch.setattr(growth, "BUDGET", 2048)
    named = [figure.what for figure in growth.growth(3, 60, 1)]
    assert "hidden 16 x 3: cost per FLOP over that of hidden 16 x 1" in named
    assert "800 proteins: cost per residue over that of 400 proteins" in named


def test_the_cost_of_tracking_is_that_of_rows_that_ran_together(monkeypatch: pytest.MonkeyPatch):
    meeting = threading.Barrier(2, timeout=10)
    walls = {"none": iter((10.0, 20.0, 30.0)), "wandb": iter((11.0, 21.0, 36.0))}

    def once(backend: str, overrides: list[str], output: str) -> tracking.Took:
        assert overrides == ["seed=3"]
        meeting.wait()
        return tracking.Took(next(walls[backend]), 1.0)

    monkeypatch.setattr(tracking, "_once", once)
    monkeypatch.setattr(tracking.cores, "physical_cores", lambda: 2)
    took = tracking.measure(3, ["none", "wandb"], ["seed=3"])
    more = tracking.share(took["wandb"], took["none"], lambda one: one.wall)
    assert more == pytest.approx(0.1)  # of 10, 5 and 20 %


@pytest.mark.slow
def test_growth_of_corpus_cluster_and_sweep_is_measured_at_three_sizes(tmp_path: Path):
    made_up(tmp_path / "sweep")
    words = ["--proteins", "10000", "--processes", "300", "--rows", "300", "--sweep", str(tmp_path / "sweep")]
    assert bench.main(["--output", str(tmp_path), "scale", *words]) == 0
    figures = {
        figure["what"]: figure["value"] for figure in json.loads((tmp_path / "scale.json").read_text())["figures"]
    }
    for size in ("100 proteins", "10,000 proteins"):
        assert figures[f"{size}: residues that 8 workers gave, M"] > 0
    assert figures["300 processes: what one process plans of a step, ms"] > 0
    assert figures["300 rows: the page, MB"] < 5


def test_small_steps_are_measured_with_the_functions_in_c_and_without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "PRODUCT_FLOPS", 1e7)
    used: list[bool] = []
    monkeypatch.setattr(small, "our_step", lambda *given: lambda: used.append(compiler.load_kernels() is not None))
    figures = small.small(2, shapes=((32, 1, 4),))
    assert used == [True, False] * 3
    assert len(figures) == 3
    pieces = small.samples(2)
    assert all(1900 < sum(len(letters) + 1 for letters in sample) <= small.TOKENS for sample in pieces)
