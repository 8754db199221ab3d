"""A small model for the tests of benchmarks."""

from pathlib import Path

import pytest
import torch

from proteinlm import checkpoint
from proteinlm.models import registry
from proteinlm.models.seeding import reseed
from tests.experiments.benchmarks import SHAPE


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    reseed(3, torch.device("cpu"))
    modules = {"backbone": registry.build(SHAPE), "head": registry.language_model_head(SHAPE)}
    checkpoint.save_weights(directory, modules, SHAPE)
    return directory
