#!/usr/bin/env bash
# lightning 2.6.6: where the batches of an epoch are no multiple of accumulate_grad_batches, its last step is too small.
#
# Expected was that the last step is divided by the number of batches that it has.
# Seen: with five equal batches and accumulate_grad_batches=4, the second step of the epoch is a quarter of the first, because the
# loss of its single batch is divided by four. Its data counts a quarter as much as all other data, and so does its learning rate.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import logging
import warnings

import lightning as L
import torch

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.path = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, index):
        return -self.weight * batch.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)

    def on_before_zero_grad(self, optimizer):
        self.path.append(float(self.weight))


model = Model()
L.Trainer(
    accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=4, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
).fit(model, torch.utils.data.DataLoader(torch.ones(5), batch_size=1))
print("weight after the epoch's two steps", float(model.weight))
assert float(model.weight) == 1.25  # 1 for the first four batches, a quarter for the fifth
PYTHON
echo "as stated: $(basename "$0")"
