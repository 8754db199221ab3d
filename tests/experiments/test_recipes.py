"""A comparison of recipes says what the records of its runs say, each recipe at its own best rate."""

import json
from math import exp
from pathlib import Path

import numpy as np
import pytest

from experiments.figures.records import Curve
from experiments.recipes import outcome, runs
from experiments.recipes.__main__ import main
from experiments.recipes.runs import ARMS, Run, plan_runs
from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.errors import InputError
from tests.runs import SMALL, composed

SHAPE = (32, 2, 4)
TINY = [word for word in SMALL if "hidden_size" not in word and "learning_rate" not in word and "tracking" not in word]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compared") / "recipes"
    chosen = ["--arms", "paper,modern", "--shapes", "32x2x4", "--rates", "1e-2", "--output", str(directory)]
    assert main([*chosen, *TINY, "train.validations=4"]) == 0
    return directory


def test_the_table_has_the_numbers_of_the_records(compared: Path):
    lines = {line.split(" | ")[0].strip("| "): line for line in (compared / "recipes.md").read_text().splitlines()}
    for arm in ("paper", "modern"):
        record = json.loads((compared / f"{arm}_32x2x4_0.01_0/pretrain/result.json").read_text())
        for split in ("valid", "holdout"):
            (score,) = [s for s in record["scores"] if (s["split"], s["metric"]) == (split, "perplexity")]
            assert f"{score['value']:.2f}" in lines[arm]
        assert f"{record['parameters']:,}" in lines[arm]
    assert "100 %" in lines["paper"]
    assert (compared / "recipes.png").stat().st_size > 0


def test_curves_end_where_the_records_do(compared: Path):
    for arm in outcome.arms(compared, runs.done(compared)):
        assert exp(arm.curve.value[-1]) == pytest.approx(arm.valid[0], rel=1e-4)
        assert len(arm.curve.value) == 4


def test_one_that_fails_is_named_with_its_log(tmp_path: Path):
    with pytest.raises(InputError, match=r"paper_32x2x4_0\.01_0: exit code 2, .*optim.beta.*log\.txt"):
        runs.carry_out([Run("paper", SHAPE, 1e-2, 0)], tmp_path / "recipes", ["optim.beta=3"], 1)


def test_every_seed_comes_before_the_next():
    of = plan_runs(["paper", "modern"], [SHAPE], [1e-3, 2e-3], 2)
    assert [run.seed for run in of] == [0] * 4 + [1] * 4
    assert len(set(of)) == 8
    assert [Run.from_name(run.name) for run in of] == of


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_by_the_ingredient_they_are_named_after(arm: str):
    def ingredients(of: str) -> dict[str, object]:
        config = composed(*Run(of, SHAPE, 1e-3, 0).overrides)
        model, optim = config.model, config.optim
        assert isinstance(model, ModelConfig)
        assert isinstance(optim, OptimConfig)
        assert optim.learning_rate == 1e-3
        feed_forward = model.feed_forward
        return {"rotary": model.positions, "feed": feed_forward, "muon": optim.matrices, "dropout": model.dropout}

    base = arm.split("-")[0]
    differing = [name for name, value in ingredients(arm).items() if value != ingredients(base)[name]]
    assert len(differing) == (arm != base)


def test_the_share_of_the_tokens_lies_on_the_line_between_validations():
    along = Curve(np.array([1.0, 2.0, 4.0]), np.zeros(3), np.array([3.0, 2.0, 1.0]))
    assert outcome.share_to_reach(along, 1.5) == pytest.approx(0.75)
    assert outcome.share_to_reach(along, 2.0) == pytest.approx(0.5)
    assert outcome.share_to_reach(along, 9.0) == pytest.approx(0.25)
    assert outcome.share_to_reach(along, 0.5) is None
