#!/usr/bin/env bash
# wandb 0.31.0: offline, resume="must" is accepted for a run that does not exist, and a run that is resumed begins at step 0 again.
#
# Expected was an error for the first, as online, and for the second that the history goes on at the next step.
# Seen: init with resume="must" and an unknown id succeeds. A second init with the id of a run that ended at step 2 has step 0, and
# its records are in a second directory under the same id. Whatever is counted in steps of wandb has to be counted by oneself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check wandb==0.31.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import os
from pathlib import Path

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
import wandb

steps = []
for _ in range(2):
    run = wandb.init(project="proteins", id="one", resume="must", dir=".")
    steps.append(run.step)
    for _ in range(2):
        run.log({"loss": 1.0})
    steps.append(run.step)
    run.finish()
folders = [path.name for path in Path("wandb").glob("offline-run-*-one*")]  # the second of one second ends in -1
print("steps at the start and end of each attempt", steps, "directories of the id", len(folders))
assert steps == [0, 2, 0, 2]
assert len(folders) == 2
PYTHON
echo "as stated: $(basename "$0")"
