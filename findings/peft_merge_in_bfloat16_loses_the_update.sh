#!/usr/bin/env bash
# peft 0.21.2: merging a small low-rank update into bfloat16 weights leaves most weights unchanged.
#
# Expected was the sum, rounded once, with a small loss.
# Seen: weights of a standard deviation of 1 and an update of about 1e-3, as a short fine-tuning gives: after merge_and_unload in
# bfloat16 only 16 % of the weights have moved at all, because a step of bfloat16 near 1 is 0.0078; in float32 all have.
# Merge in float32 and convert afterwards, or keep the adapter apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.23.0 torch==2.13.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def changed(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256, bias=False))
    nn.init.normal_(model[0].weight)
    model = model.to(dtype)
    before = model[0].weight.detach().clone()
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.02)
    after = adapted.merge_and_unload()[0].weight
    return float((after != before).float().mean())


shares = {dtype: changed(dtype) for dtype in (torch.bfloat16, torch.float32)}
print(shares)
assert shares[torch.bfloat16] < 0.25
assert shares[torch.float32] > 0.99
PYTHON
echo "as stated: $(basename "$0")"
