"""Numbers of residues are learnt and ranked, and a residue without one changes neither the loss nor the score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from proteinlm import tasks
from proteinlm.config import CsvDataConfig, CustomTaskConfig, ModelConfig
from proteinlm.data.batches.labelled import LabelledBatches, read
from proteinlm.data.batches.schedule import MicroBatch
from proteinlm.data.csv_labels import open_labels
from proteinlm.records import predictions
from proteinlm.records.bootstrap import bootstrap
from proteinlm.tasks.metrics import ResidueRanking
from proteinlm.tasks.regression import ResidueRegression

TINY = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, dropout=0.0)


def test_the_score_is_scipys_over_the_residues_that_have_a_number(tmp_path: Path):
    rng = np.random.default_rng(0)
    starts, target, prediction = torch.tensor([0, 6, 9, 20]), rng.normal(size=20).round(1), rng.normal(size=20).round(1)
    target[[0, 6, 9, 4, 15]] = np.nan  # [CLS] and two residues
    metric = ResidueRanking()
    metric.update(torch.tensor(prediction), torch.tensor(target), starts, torch.tensor([4, 0, 2]))
    there = ~np.isnan(target)
    sample = metric.per_record()["spearman"]
    assert sample.estimate() == pytest.approx(spearmanr(prediction[there], target[there])[0])
    assert sample.record.tolist() == [0, 2, 4]
    assert type(sample).over_seeds([sample, sample]).estimate() == sample.estimate()
    predictions.save(tmp_path, {("test", "spearman"): sample})
    again = predictions.load(tmp_path)["test", "spearman"]
    assert again.estimate() == sample.estimate()
    assert bootstrap(again, resamples=20) == bootstrap(sample, resamples=20)


def test_a_residue_without_a_number_is_no_target(tmp_path: Path):
    file = tmp_path / "labels.fasta"
    file.write_text(
        ">a SET=train TARGET=1;999;3;5\nACDE\n>b SET=train TARGET=999;999\nAC\n"
        ">c SET=val TARGET=1;2\nDE\n>d SET=test TARGET=1;9\nKR\n"
    )
    source, config = open_labels(CsvDataConfig(csv=str(file)), CustomTaskConfig())
    task = tasks.module_of(config)(config, TINY)
    assert isinstance(task, ResidueRegression)
    proteins = read(source.records("train"), task.labels(config), origin="train", longest=100)
    assert proteins.terms.tolist() == [3, 0]
    task.prepare(proteins)
    assert (task.scale.mean.item(), task.scale.deviation.item()) == pytest.approx((3, np.std([1, 3, 5])))
    batch = LabelledBatches(proteins, seed=0)[MicroBatch(0, 0, np.array([0, 1]), 3)]
    output = task(batch.packed).squeeze(-1)
    expected = sum(
        (output[place] - (number - 3) / np.std([1, 3, 5])) ** 2 for place, number in ((1, 1), (3, 3), (4, 5))
    )
    assert task.summed_loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
