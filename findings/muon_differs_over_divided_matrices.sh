#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Muon gives other updates for a matrix that FSDP2 has divided than for the whole one.
#
# Expected was the same update up to rounding, as of AdamW.
# Seen: two processes, a matrix of 8 x 4 divided by rows: after one step from the same weights and gradients the largest difference
# is 1.8 % of the largest update; of AdamW it is 0. Each process orthogonalises its own rows as if they were the matrix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
venv/bin/python - << 'PYTHON'
import os

PROGRAM = '''
import os, sys
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

distributed.init_process_group("gloo")


def stepped(divide, optimiser):
    torch.manual_seed(0)
    model = nn.Linear(4, 8, bias=False)
    gradient = torch.randn(8, 4)
    before = model.weight.detach().clone()
    if divide:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    rows = gradient.chunk(2)[distributed.get_rank()] if divide else gradient
    if divide:
        from torch.distributed.tensor import DTensor
        weight = model.weight
        weight.grad = DTensor.from_local(rows, weight.device_mesh, weight.placements)
    else:
        model.weight.grad = rows
    optimiser(model.parameters()).step()
    after = model.weight.full_tensor() if divide else model.weight
    return (after - before).detach()


for name, make in (("AdamW", lambda p: torch.optim.AdamW(p, lr=0.1)), ("Muon", lambda p: torch.optim.Muon(p, lr=0.1))):
    whole, divided = stepped(False, make), stepped(True, make)
    if distributed.get_rank() == 0:
        print(name, float((whole - divided).abs().max() / whole.abs().max()), flush=True)
distributed.destroy_process_group()
'''
import subprocess
import sys

with open("program.py", "w") as file:
    file.write(PROGRAM)
found = subprocess.run(
    [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "program.py"],
    capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
)
print(found.stdout, found.stderr[-2000:] if found.returncode else "")
differences = {name: float(value) for name, value in (line.split() for line in found.stdout.splitlines())}
assert differences["AdamW"] < 1e-6
assert differences["Muon"] > 0.01
PYTHON
echo "as stated: $(basename "$0")"
