#!/usr/bin/env bash
# fairscale 0.4.13: checkpoint_wrapper recomputes in float32 what ran in bfloat16 under autocast on a CPU.
#
# Expected was that the second computation of the forward pass has the precision of the first, as with torch's own checkpoint.
# Seen: a layer under torch.autocast("cpu", torch.bfloat16) gives bfloat16 in the forward pass and float32 when it is computed again
# for the backward pass; with torch.utils.checkpoint both are bfloat16. The gradients are of another function than the loss.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check fairscale==0.4.13 torch==2.13.0 numpy==2.4.6 2> /dev/null
venv/bin/python - << 'PYTHON'
import warnings

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

warnings.simplefilter("ignore")
from fairscale.nn.checkpoint import checkpoint_wrapper


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(8, 8), []

    def forward(self, x):
        self.seen.append(torch.matmul(x, x.T).dtype)
        return self.linear(x)


def precisions(run):
    layer = Layer()
    x = torch.randn(4, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(layer, x)
    y.float().square().sum().backward()
    return layer.seen


theirs = precisions(lambda layer, x: checkpoint_wrapper(layer)(x))
torchs = precisions(lambda layer, x: checkpoint(layer, x, use_reentrant=False))
print("fairscale", theirs, "torch", torchs)
assert theirs == [torch.bfloat16, torch.float32]
assert torchs == [torch.bfloat16, torch.bfloat16]
PYTHON
echo "as stated: $(basename "$0")"
