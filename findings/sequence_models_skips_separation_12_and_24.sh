#!/usr/bin/env bash
# sequence-models 1.8.0: pairs that are exactly 6, 12 or 24 residues apart belong to no contact range of LPrecision.
#
# CASP's and TAPE's ranges are short from 6, medium from 12, long from 24 residues apart. Expected was that they are inclusive.
# Seen: a perfect prediction of one contact 12 residues apart scores 0 as short, medium, long and medium-long; 24 apart it counts
# as medium-long, but neither as medium nor as long. A precision by this class is over other pairs than the published ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sequence-models==1.8.0 torch==2.13.0 numpy==2.4.6 2> /dev/null
venv/bin/python - << 'PYTHON'
import torch
from sequence_models.metrics import LPrecision

LENGTH = 60


def precision(separation, name):
    contacts = torch.zeros(1, LENGTH, LENGTH)
    contacts[0, 10, 10 + separation] = contacts[0, 10 + separation, 10] = 1
    mask = torch.ones(1, LENGTH, LENGTH, dtype=torch.bool)
    return LPrecision(k=LENGTH, contact_range=name)(contacts.clone(), contacts, mask, torch.tensor([LENGTH]))[0]


RANGES = ("short", "medium", "long", "medium-long")
for separation, counted in ((6, ""), (7, "short"), (12, ""), (13, "medium medium-long"), (24, "medium-long"), (25, "long medium-long")):
    found = [name for name in RANGES if precision(separation, name) == 1]
    print(separation, found)
    assert found == counted.split()
PYTHON
echo "as stated: $(basename "$0")"
