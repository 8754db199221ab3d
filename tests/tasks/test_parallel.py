"""A downstream task reaches the same predictions however its model is divided."""

from pathlib import Path

import numpy as np
import pytest

from proteinlm.records import predictions
from proteinlm.records.bootstrap import Predictions
from proteinlm.training import finetuning
from tests.runs import in_group
from tests.tasks.toys import composed, home

RUNS = {  # a gain that is one number, a backbone without gradients, and a list of maps
    "fsdp-stability": ("task=stability", "task.head=weight_norm", "strategy=fsdp"),
    "tensor-stability": ("task=stability", "task.head=weight_norm", "strategy=tensor", "task.freeze=backbone"),
    "fsdp-contact": ("task=contact", "strategy=fsdp", "strategy.activations=recompute"),
}
SHORT = ("seeds=1", "task.tokens=4096", "task.validations=2", "train.checkpoint_seconds=60", "model.dropout=0.1")


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("divided")

    def work() -> None:
        for name, overrides in RUNS.items():
            finetuning.run(composed(*SHORT, *overrides, "strategy.devices=2", f"output={output / name}"))

    in_group(2, work)
    return output


@pytest.mark.parametrize("name", RUNS)
def test_predictions_do_not_depend_on_the_division(name: str, divided: Path, tmp_path: Path):
    alone = [choice for choice in RUNS[name] if not choice.startswith("strategy")]
    config = composed(*SHORT, *alone, f"output={tmp_path}")
    finetuning.run(config)
    ours, theirs = (predictions.load(home(output, config.task.label)) for output in (divided / name, tmp_path))
    assert ours.keys() == theirs.keys()
    for key, wanted in theirs.items():
        found = ours[key]
        assert found.record.tolist() == wanted.record.tolist(), "every record, once"
        if isinstance(wanted, Predictions):
            assert isinstance(found, Predictions)
            assert np.allclose(found.prediction, wanted.prediction, rtol=1e-4, atol=1e-5)
