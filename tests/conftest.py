"""What every test shares: one thread, no network, no tracking service, signals, and the order of the files."""

import gc
import os
import signal

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "test_sweep",
    "test_strategies",
    "test_reshaping",
    "test_torture",
    "test_finetuning",
    "test_guard",
    "test_resume",
)
"""Files of tests that take long, the longest first."""


@pytest.fixture(autouse=True)
def one_thread():
    """Results are compared bit for bit, and tests run side by side."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process works on one of them alone in the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Search what has been imported no more for garbage: a search through torch and Lightning takes a second."""
    gc.collect()
    gc.freeze()
