"""A dry run: the model divided as on the cluster, by one process that pretends to be the first of them all.

Nothing is allocated (meta device) and nothing is sent (torch's fake process group), so the largest row on hundreds of
processes is a matter of seconds on a laptop.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from proteinlm import planner, tasks
from proteinlm.config import RunConfig
from proteinlm.data import sources
from proteinlm.models.registry import BLOCKS
from proteinlm.parallel.divide import divide, mesh
from proteinlm.parallel.dtensors import local
from proteinlm.planner import Proteins, gigabytes


def run(config: RunConfig) -> None:
    """Print the plan, the first process's part of each kind of parameter, and its memory."""
    lengths = sources.corpus(config.data).splits["train"].lengths()
    proteins = Proteins.of(lengths, config.model.max_positions)
    name = "cpu" if config.hardware == "auto" else config.hardware
    plan = planner.plan(config, proteins, planner.hardware_named(name, config.strategy.devices))
    for what, how_much in planner.describe(plan):
        print(f"{what:<15} {how_much}")
    module = sharded_model(config)
    print(f"\n{'parameter':<50} {'whole':<16} process 0 of {config.strategy.processes}")
    for name, parameter in module.named_parameters():
        if ".blocks." not in name or ".blocks.0." in name:  # the blocks are alike
            print(f"{name:<50} {_shape(parameter):<16} {_shape(local(parameter))}")
    local_sum = sum(local(parameter).numel() for parameter in module.parameters())
    print(
        f"\n{local_sum:,} of {plan.parameters:,} parameters, {gigabytes(planner.FP32 * local_sum)} of weights in process 0"
    )
    planner.check(config, proteins, plan.hardware)


def sharded_model(config: RunConfig) -> nn.Module:
    """The model on the meta device, divided as the first process of `config` holds it."""
    with torch.device("meta"):
        module = tasks.pretraining(config.task.name)(config, ())
    if config.strategy.sharded:
        with _pretended(config.strategy.processes):
            blocks = [block for block in module.modules() if isinstance(block, BLOCKS)]
            divide(module, blocks, mesh(config.strategy, "cpu"))
    return module


@contextmanager
def _pretended(processes: int) -> Iterator[None]:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
