"""Compiled blocks are the same function: training with them comes to the same weights, for batches of any size."""

from pathlib import Path

import pytest
import torch

from proteinlm.training import pretraining
from tests.runs import SMALL, composed, furthest, weights

FEW = ("model.dropout=0", "train.tokens=8192", "optim.learning_rate=1e-3", "train.precision=fp32")


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["recipe=paper", "recipe=modern", "strategy.activations=recompute"])
def test_training_comes_to_the_same_weights(tmp_path: Path, chosen: str):
    torch.compiler.reset()
    found = {}
    for compiled in (False, True):
        config = composed(*SMALL, *FEW, chosen, f"train.compile={compiled}", f"output={tmp_path / str(compiled)}")
        score = pretraining.run(config).score("masked_language_model", "valid", "perplexity")
        assert score
        found[compiled] = score.value
    assert found[True] == pytest.approx(found[False], rel=1e-5)
    assert furthest(weights(tmp_path / "True"), weights(tmp_path / "False")) < 1e-4


@pytest.mark.slow
def test_one_graph_serves_all_sizes_of_batch(tmp_path: Path):
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True):
        pretraining.run(composed(*SMALL, *FEW, "train.compile=true", f"output={tmp_path}"))
