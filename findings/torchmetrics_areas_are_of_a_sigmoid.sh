#!/usr/bin/env bash
# torchmetrics 1.9.0: the area under the ROC curve of log-likelihoods is near 0.5, whatever they tell, and depends on the batches.
#
# An area depends on the order of the scores alone, so expected was the same value as scikit-learn's for any scores.
# Seen: scores of a batch that are not all between 0 and 1 are taken through a sigmoid in float32 first. Log-likelihoods of whole
# proteins, about -200, all become 0: the area is 0.505 where scikit-learn gives 0.69; average precision does the same. It is decided
# for each update by itself: 0.7 and 0.9, then -3 and 0.8, which are ordered without a fault, give 0.75 in two updates and 1 in one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
venv/bin/python - << 'PYTHON'
import numpy as np
import sklearn
import torch
import torchmetrics
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

draw = np.random.default_rng(0)
label = draw.integers(0, 2, 2000)
likelihood = -np.abs(40 * draw.normal(size=2000) + 200) + 30 * label
metric = BinaryAUROC()
metric.update(torch.tensor(likelihood, dtype=torch.float32), torch.tensor(label))
whole, truth = metric.compute().item(), roc_auc_score(label, likelihood)
print("torchmetrics", torchmetrics.__version__, "scikit-learn", sklearn.__version__)
print(f"log-likelihoods: {whole:.3f}, scikit-learn {truth:.3f}")
assert whole < 0.51 < 0.68 < truth, "the order alone counts"

batches = ((torch.tensor([0.7, 0.9]), torch.tensor([0, 1])), (torch.tensor([-3.0, 0.8]), torch.tensor([0, 1])))
once, twice = BinaryAUROC(), BinaryAUROC()
once.update(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
for batch in batches:
    twice.update(*batch)
print("in one update", once.compute().item(), "in two", twice.compute().item())
assert once.compute() == 1
assert twice.compute() == 0.75, "the same in one update and in two"
PYTHON
echo "as stated: $(basename "$0")"
