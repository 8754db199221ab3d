"""The mesh of all processes, and a model divided over it: FSDP2, tensor parallelism, or both."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from proteinlm.config import StrategyConfig
from proteinlm.parallel import plan
from proteinlm.parallel.dtensors import local

SIDES = {"column": ColwiseParallel, "row": RowwiseParallel}


def mesh(config: StrategyConfig, device: str) -> DeviceMesh:
    """All processes, by what they share: ``replicate`` the divided weights, ``shard`` a model, ``tensor`` a layer."""
    if config.name == "hsdp":
        replicas = config.replica_count
        return init_device_mesh(device, (replicas, config.processes // replicas), mesh_dim_names=("replicate", "shard"))
    shape = (config.data_processes, config.tensor_size)
    return init_device_mesh(device, shape, mesh_dim_names=("shard", "tensor"))


def divide(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Divide the weights of `module`, `blocks` among them, over `mesh`: each block by itself, then all the rest."""
    names = mesh.mesh_dim_names or ()
    cut = "tensor" in names and mesh["tensor"].size() > 1
    if cut:
        sides = {layer: SIDES[side]() for layer, side in plan.BLOCK.items()}
        for block in blocks:
            parallelize_module(block, mesh["tensor"], sides)
    data = mesh if "replicate" in names else mesh["shard"]
    if data.size() > 1 or not cut:
        for block in blocks:
            fully_shard(block, mesh=data)
        fully_shard(module, mesh=data)


def copy_part(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy this process's part of the whole tensor `source` into `target`; all of it if `target` is not divided."""
    if isinstance(target, DTensor):
        shape, offsets = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
        for dimension, (length, offset) in enumerate(zip(shape, offsets, strict=True)):
            source = source.narrow(dimension, offset, length)
    with torch.no_grad():
        local(target).copy_(source)
