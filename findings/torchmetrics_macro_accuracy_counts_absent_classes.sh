#!/usr/bin/env bash
# torchmetrics 1.9.0: macro accuracy counts a class that no record has, if it is predicted once; scikit-learn's balanced accuracy
# does not.
#
# Both are called the mean recall of the classes. Expected was the same number where some class does not occur among the targets,
# as in a test split with few of many classes.
# Seen: targets 0 0 1 1, predictions 0 1 1 2: balanced_accuracy_score gives 0.5, the mean over two classes; multiclass_accuracy
# gives 0.333, since class 2 counts with a recall of 0. Class 3, which occurs nowhere, is left out by both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
venv/bin/python - << 'PYTHON'
import warnings

import sklearn
import torch
import torchmetrics
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

warnings.filterwarnings("ignore")
target, prediction = [0, 0, 1, 1], [0, 1, 1, 2]
theirs = multiclass_accuracy(torch.tensor(prediction), torch.tensor(target), num_classes=4, average="macro").item()
balanced = balanced_accuracy_score(target, prediction)
print("torchmetrics", torchmetrics.__version__, "scikit-learn", sklearn.__version__)
print(f"macro accuracy {theirs:.3f}, balanced accuracy {balanced:.3f}")
assert balanced == 0.5
assert abs(theirs - 1 / 3) < 1e-6, "an absent class does not count"
PYTHON
echo "as stated: $(basename "$0")"
