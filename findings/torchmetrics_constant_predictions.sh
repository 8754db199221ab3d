#!/usr/bin/env bash
# torchmetrics 1.9.0: a model that answers the same for every protein has a Spearman correlation of 0, but a Pearson and a Kendall
# correlation of nan.
#
# All three are undefined, and scipy gives nan for each. Expected was nan of each here too.
# Seen: 0.0, nan, nan, from the functions and from the classes. A table of Spearman correlations cannot tell a model that failed
# from one that has no relation to the truth.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import warnings

import torch
from torchmetrics import functional as F
from torchmetrics import PearsonCorrCoef, SpearmanCorrCoef

warnings.simplefilter("ignore")
constant, truth = torch.ones(6), torch.arange(6.0)
spearman = F.spearman_corrcoef(constant, truth)
pearson = F.pearson_corrcoef(constant, truth)
kendall = F.kendall_rank_corrcoef(constant, truth)
print("Spearman", spearman.item(), "Pearson", pearson.item(), "Kendall", kendall.item())
assert spearman == 0
assert pearson.isnan()
assert kendall.isnan()
for metric, expected in ((SpearmanCorrCoef(), 0.0), (PearsonCorrCoef(), float("nan"))):
    metric.update(constant, truth)
    assert torch.equal(metric.compute().nan_to_num(7.0), torch.tensor(expected).nan_to_num(7.0))
PYTHON
echo "as stated: $(basename "$0")"
