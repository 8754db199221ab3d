"""What every test shares: one thread, no network, no tracking service."""

import os

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Results are compared bit for bit, and tests run side by side."""
    torch.set_num_threads(1)
