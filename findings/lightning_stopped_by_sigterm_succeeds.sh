#!/usr/bin/env bash
# lightning 2.6.6: a training that is stopped by SIGTERM ends with status 0.
#
# Expected was 143, or another status that a shell, make or a scheduler takes for a failure.
# Seen: the process prints that it received SIGTERM, ends in good order after the step, and its status is 0: `train && evaluate`
# evaluates a model that was not trained to the end. The exception it raises is a SystemExit without a code.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import signal
import subprocess
import sys
import time

TRAIN = '''
import torch, lightning as L
class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        if index == 3:
            open("begun", "w").close()
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)
class Data(torch.utils.data.Dataset):
    def __len__(self): return 10**9
    def __getitem__(self, index):
        import time; time.sleep(0.01)
        return torch.ones(4)
L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
    Model(), torch.utils.data.DataLoader(Data(), batch_size=2))
print("trained to the end")
'''
process = subprocess.Popen([sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
import os

deadline = time.monotonic() + 300
while not os.path.exists("begun") and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.1)
process.send_signal(signal.SIGTERM)
output, errors = process.communicate(timeout=120)
print("status", process.returncode, "| trained to the end:", "trained to the end" in output)
assert process.returncode == 0
assert "trained to the end" not in output
PYTHON
echo "as stated: $(basename "$0")"
