"""Keeps libraries from saying, while they are imported, what tells a user nothing."""

import logging


def silence_torchao() -> None:
    """Call it before transformers or peft, which import torchao where it is installed.

    torchao warns of each of its libraries for GPUs that a torch for CPUs cannot load, and torch of the way in which torchao
    registers two of its types (torchao 0.18, torch 2.13).
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
