"""Add a downstream task: predict from its sequence the share of a protein's residues that are in helices.

A task says where its records come from, how they become targets, which heads there are, and how it is scored. Helix
content is a number of each protein, so `ScalarRegression` has all but the first two. With a line in `TASKS` and a YAML in
`conf/task/` it becomes a command, `proteinlm finetune task=helix_content` (see CONTRIBUTING.md).
"""

from typing import ClassVar, final

import numpy as np
import torch

from proteinlm import checkpoint, pretrained
from proteinlm.config import LabelledTaskConfig, SyntheticDataConfig
from proteinlm.data import synthetic
from proteinlm.data.batches.labelled import LabelledBatches, Labels, read
from proteinlm.data.batches.schedule import MicroBatch
from proteinlm.tasks.regression import ScalarRegression


@final
class HelixContent(ScalarRegression):
    """The share of residues in a helix, by mean squared error, scored by Spearman's rank correlation."""

    dataset = "secondary_structure"
    splits: ClassVar = {"train": 8678, "valid": 2170, "cb513": 513}

    @classmethod
    def labels(cls, config):
        return Labels(target=lambda record: np.float32(np.mean(record["ss3"] == 0)), terms=lambda target: 1)


def proteins(split):
    """The proteins of a split of the embedded default, with their targets."""
    records = synthetic.labelled(SyntheticDataConfig(labelled=0.4), HelixContent.dataset, split)
    return read(records, HelixContent.labels(config), origin=split, longest=weights.config.max_positions - 1)


torch.manual_seed(0)
weights = checkpoint.load_weights(pretrained.DIRECTORY)
config = LabelledTaskConfig(name="helix_content", head="mean", freeze="backbone")
task = HelixContent(config, weights.config)
checkpoint.restore({"backbone": task.backbone}, weights)
training, test = proteins("train"), proteins("cb513")
task.prepare(training)  # takes mean and deviation of the targets
print(f"{len(training.letters)} proteins to learn from, {len(test.letters)} of other families to test")

batches, draw = LabelledBatches(training, seed=0), np.random.default_rng(0)
optimiser = torch.optim.AdamW(task.head.parameters(), lr=3e-3)
for step in range(30):
    chosen = draw.choice(len(training.letters), 16, replace=False)
    loss = task.summed_loss(batches[MicroBatch(step, epoch=0, records=chosen, step_targets=16)]) / 16
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

batch = LabelledBatches(test, seed=0)[MicroBatch(0, 0, np.arange(len(test.letters)), len(test.letters))]
metric = task.eval().metric()
task.update(metric, task(batch.packed).detach(), batch)
print(f"Spearman's correlation after {step + 1} steps of the head: {metric.per_record()['spearman'].estimate():.2f}")
