"""A split gives fine-tuning its proteins, narrowed and limited as asked, and says what is unlike or missing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from proteinlm.config import ModelConfig, SyntheticDataConfig
from proteinlm.data import synthetic
from proteinlm.errors import InputError
from proteinlm.records import predictions
from proteinlm.records.bootstrap import Scores
from proteinlm.tasks import downstream
from proteinlm.tasks.base import TaskModule
from proteinlm.training import finetuning
from proteinlm.training.finetuning_data import Splits
from tests.tasks import toys
from tests.tasks.toys import composed, home


@pytest.fixture(scope="module", autouse=True)
def toy_proteins() -> Iterator[None]:
    with toys.in_place():
        yield


def test_test_splits_are_read_once_and_after_all_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    read, step = Splits.read, TaskModule.training_step

    def reading(self: Splits, split: str) -> Any:
        events.append(split)
        return read(self, split)

    def stepping(self: TaskModule, batch: Any, batch_idx: int) -> Tensor:
        events.append("step")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Splits, "read", reading)
    monkeypatch.setattr(TaskModule, "training_step", stepping)
    finetuning.run(composed("task=remote_homology", "task.tokens=2048", f"output={tmp_path}"))
    tests = list(downstream("remote_homology").splits)[2:]
    assert [event for event in events if event in tests] == tests
    assert events.index(tests[0]) > max(i for i, event in enumerate(events) if event == "step")


def test_sizes_unlike_the_published_ones_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "data"
    publish(root)
    config = composed(
        "task=stability", "data=files", f"data.root={root}", f"data.cache={tmp_path / 'cache'}", f"output={tmp_path}"
    )
    result = finetuning.run(config)
    told = capsys.readouterr().err
    assert "stability: train 60, valid 15, test 13 proteins" in told
    for split, size, published in (("train", "60", "53,614"), ("valid", "15", "2,512"), ("test", "13", "12,851")):
        assert f"warning: {root}/stability/stability_{split}.json has {size} proteins, TAPE's {published}" in told
    assert [score.n for score in result.scores] == [15, 15, 13, 13]


def test_a_mask_narrows_a_split_to_what_others_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def masked(config: SyntheticDataConfig, task: str, split: str) -> list[dict[str, Any]]:
        records = toys.labelled(config, task, split)
        extra = [{"cb513_mask": (np.arange(len(r["primary"])) < 5).astype(np.float32)} for r in records]
        extra[1] = {}  # as of two chains of the published file
        return [r | x for r, x in zip(records, extra, strict=True)] if split == "cb513" else records

    monkeypatch.setattr(synthetic, "labelled", masked)
    finetuning.run(composed("task=secondary_structure", "seeds=1", "task.tokens=2048", f"output={tmp_path}"))
    found = predictions.load(home(tmp_path, "secondary_structure_q3"))
    weight = {}
    for split in ("cb513", "cb513_proper"):
        sample = found[split, "accuracy"]
        assert isinstance(sample, Scores)
        weight[split] = sample.weight
    resolved = [r["valid_mask"][:5].sum() for r in masked(SyntheticDataConfig(), "secondary_structure", "cb513")]
    resolved[1] = 0
    assert weight["cb513_proper"].tolist() == resolved
    assert weight["cb513"].sum() > sum(resolved)
    assert ("ts115_proper", "accuracy") not in found


def test_limits_take_proteins_from_all_over_a_split(tmp_path: Path):
    config = composed("task=stability", "seeds=1", "task.tokens=2048", f"output={tmp_path}", "task.test_proteins=4")
    scored = {(score.split, score.metric): score.n for score in finetuning.run(config).scores}
    assert scored["test", "spearman"] == 4
    records = predictions.load(home(tmp_path, "stability"))["test", "spearman"].record
    size = len(toys.labelled(SyntheticDataConfig(), "stability", "test"))
    assert records.tolist() == [size * k // 4 for k in range(4)]
    limited = composed("task=stability", "task.valid_proteins=3")
    assert isinstance(limited.model, ModelConfig)
    assert len(Splits(limited, limited.model).valid.letters) == 3


def test_proteins_without_anything_to_score_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def unknown(config: SyntheticDataConfig, task: str, split: str) -> list[dict[str, Any]]:
        first, second, *others = toys.labelled(config, task, split)
        return [first, second | {"ss3": np.full(len(second["primary"]), -1)}, *others]

    monkeypatch.setattr(synthetic, "labelled", unknown)
    result = finetuning.run(composed("task=secondary_structure", "seeds=1", "task.tokens=2048", f"output={tmp_path}"))
    assert (
        "secondary_structure_q3: nothing to score in 1 of 13 proteins of casp12: records 1\n" in capsys.readouterr().err
    )
    assert {score.n for score in result.scores} == {toys.COUNTS["valid"] - 1, toys.TESTED - 1}


def test_a_missing_split_is_named(tmp_path: Path):
    root = tmp_path / "data"
    publish(root)
    (root / "stability/stability_valid.json").unlink()
    config = composed(
        "task=stability", "data=files", f"data.root={root}", f"data.cache={tmp_path / 'cache'}", f"output={tmp_path}"
    )
    with pytest.raises(InputError, match=r"no valid split of stability, only"):
        finetuning.run(config)


def publish(root: Path) -> None:
    """Toy proteins as TAPE's JSON."""
    (root / "stability").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        records = toys.labelled(SyntheticDataConfig(), "stability", split)
        plain = [record | {"stability_score": record["stability_score"].tolist()} for record in records]
        (root / f"stability/stability_{split}.json").write_text(json.dumps(plain))
