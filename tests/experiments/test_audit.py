"""A table can be audited without its models: what was changed afterwards, in a score, a prediction or a config, is named."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from experiments.table7 import __main__ as table7
from experiments.table7 import audit, without_relatives
from experiments.table7.published import COLUMNS
from experiments.table7.rows import Row
from proteinlm.data.similarity import leakage
from proteinlm.data.similarity.leakage import Closest
from proteinlm.errors import InputError
from proteinlm.records import predictions, results, run_directory
from proteinlm.records.bootstrap import bootstrap
from proteinlm.training import finetuning
from tests.experiments.sweeps import result_of
from tests.experiments.test_rows import row
from tests.tasks import toys


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tuned")
    with toys.in_place():
        finetuning.run(toys.composed("task=stability", "task.tokens=2048", "task.validations=1", f"output={output}"))
    return toys.home(output, "stability")


@pytest.fixture
def copy(tuned: Path, tmp_path: Path) -> Path:
    for file in (results.RESULT, results.CONFIG, run_directory.PREDICTIONS):
        (tmp_path / file).write_bytes((tuned / file).read_bytes())
    return tmp_path


def problems(directory: Path) -> list[str]:
    ((_, scores, found),) = audit.audit(directory)
    assert found or scores > 2
    return found


def test_a_sound_result_agrees_with_itself(copy: Path):
    assert problems(copy) == []


def test_another_score_is_named(copy: Path):
    result = results.load(copy / results.RESULT)
    better = [replace(score, value=score.value + 0.01) for score in result.scores[:1]]
    replace(result, scores=better + result.scores[1:]).save(copy)
    (found,) = problems(copy)
    assert f"{better[0].split} {better[0].metric} is " in found


def test_a_narrower_interval_and_another_number_of_proteins_are_named(copy: Path):
    result = results.load(copy / results.RESULT)
    first, second = result.scores[:2]
    assert first.low is not None
    replace(result, scores=[replace(first, low=first.low + 1e-3), replace(second, n=5), *result.scores[2:]]).save(copy)
    assert len(problems(copy)) == 2


def test_other_predictions_are_named(copy: Path):
    samples = predictions.load(copy)
    name = next(iter(samples))
    samples[name] = samples[name].only(np.arange(len(samples[name].record)) > 0)
    predictions.save(copy, samples)
    assert any("is not the one that result.json names" in problem for problem in problems(copy))
    assert any("its predictions give" in problem for problem in problems(copy))


def test_predictions_that_were_cut_are_named(copy: Path, capsys: pytest.CaptureFixture[str]):
    file = copy / run_directory.PREDICTIONS
    file.write_bytes(file.read_bytes()[:-200])
    (found,) = problems(copy)
    assert found.startswith(f"{file}: damaged: ")
    assert table7.main([str(copy.parent), "--verify"]) == 1
    assert f"{file}: damaged: " in capsys.readouterr().err


def test_another_config_is_named(copy: Path):
    file = copy / results.CONFIG
    file.write_text(file.read_text().replace("head: mlp", "head: linear"))
    (found,) = problems(copy)
    assert "config.yaml is not the config" in found


def test_a_result_without_predictions_is_named(copy: Path):
    (copy / run_directory.PREDICTIONS).unlink()
    assert "No such file" in problems(copy)[0]


def test_an_older_table_is_named(tmp_path: Path):
    made: dict[str, object] = {"rows": [{"row": "a", "q3": 0.5}]}
    assert audit.table(tmp_path, made) == []
    (tmp_path / "table7.json").write_text(json.dumps(made))
    assert audit.table(tmp_path, made) == []
    assert audit.table(tmp_path, {"rows": [{"row": "a", "q3": 0.6}]}) == [f"{tmp_path}/table7.json says otherwise now"]


def relatives(file: Path, identity: np.ndarray) -> Path:
    found = [Closest("remote_homology", "test_fold_holdout", identity, np.full(len(identity), np.nan))]
    leakage.save(file, found, {"remote_homology": "d"})
    return file


def scored_row(directory: Path, data: str) -> Row:
    made = row(directory, "a", range(50), 0.8)  # the first forty are right
    made.results["remote_homology"] = replace(result_of("hidden-768-layer-12-head-6", "remote_homology"), data=data)
    return made


def test_the_stratum_is_scored_on_the_proteins_that_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = scored_row(tmp_path, "d")
    identity = np.where(np.arange(50) < 30, 0.9, 0.2)
    scores = without_relatives.scores([made], relatives(tmp_path / "relatives.arrow", identity), 0.5)
    assert "there was no train to search" in capsys.readouterr().err
    score = scores["a"]["remote_homology"]
    assert score is not None
    assert (score.value, score.n) == (0.5, 20)
    sample = predictions.load(made.directory / "remote_homology")["test_fold_holdout", "accuracy"]
    assert (score.low, score.high) == bootstrap(sample.only(identity < 0.5))
    assert json.loads(without_relatives.as_json(scores, 0.5))["rows"]["a"]["remote_homology"] == asdict(score)
    assert {key for key, score in scores["a"].items() if score} == {"remote_homology"}
    assert len(scores["a"]) == len(COLUMNS)


def test_relatives_of_other_proteins_are_refused(tmp_path: Path):
    made = scored_row(tmp_path, "other data")
    with pytest.raises(InputError, match="not those of the proteins that a was scored on"):
        without_relatives.scores([made], relatives(tmp_path / "relatives.arrow", np.zeros(50)), 0.5)
