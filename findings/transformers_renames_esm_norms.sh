#!/usr/bin/env bash
# transformers 5.23.0: an ESM model that is saved and never trained has other tensor names in its file than in memory.
#
# Expected was that the file has the names of state_dict().
# Seen: the LayerNorms before attention and before the feed-forward network, called weight and bias in memory, are written as gamma
# and beta, and one tensor's name has an asterisk in it. Loading by the same library undoes it; a program that reads the file by
# the names of the model does not find these tensors, and one that ignores missing names leaves them at their initial values.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 safetensors==0.8.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import os

import torch
from safetensors import safe_open
from transformers import EsmConfig, EsmForMaskedLM

os.environ["HF_HUB_OFFLINE"] = "1"
config = EsmConfig(
    vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=64, position_embedding_type="rotary", pad_token_id=1, mask_token_id=32,
)
model = EsmForMaskedLM(config)
model.save_pretrained("saved")
with safe_open("saved/model.safetensors", "pt") as file:
    written = set(file.keys())
memory = set(model.state_dict())
print("only in the file:  ", sorted(written - memory))
print("only in the memory:", sorted(memory - written))
assert sum(name.endswith(("gamma", "beta")) for name in written) > 0
assert not any(name.endswith(("gamma", "beta")) for name in memory)
again = EsmForMaskedLM.from_pretrained("saved")
assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
PYTHON
echo "as stated: $(basename "$0")"
