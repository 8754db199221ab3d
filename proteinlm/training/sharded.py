"""Weights, gradients and optimiser divided among processes: FSDP2, tensor parallelism, or both, in Lightning."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from proteinlm import checkpoint as files
from proteinlm import optim
from proteinlm.checkpoint import sharded
from proteinlm.config import StrategyConfig
from proteinlm.errors import InputError
from proteinlm.parallel.divide import copy_part, mesh
from proteinlm.parallel.dtensors import local

# advice on redistributions that happen once in a step, or once in a run
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for DTensors, with a mesh that knows replicas, and checkpoints that appear whole.

    A checkpoint is a directory; it, or the single file of another strategy, can be read by any number of processes.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def mesh(self) -> DeviceMesh:
        return self.device_mesh

    @property
    def data_group(self) -> ProcessGroup | None:
        """The processes that compute different micro-batches, if they are not all."""
        tensor = self.config.tensor_size > 1
        return self.mesh["shard"].get_group() if tensor else None

    def setup_environment(self) -> None:
        # in place of Lightning's, whose mesh has no replicas
        self._setup_distributed()
        self._device_mesh = mesh(self.config, self.root_device.type)

    def block_backward_sync(self) -> Any:
        """Between the micro-batches of a step: sum gradients over the shards, to keep them divided, not over replicas."""
        return _WithoutReplicas(self.model, self.config.name == "hsdp")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        states = checkpoint.pop("optimizer_states", [])
        moments = {name: state for dump in states for name, state in optim.moments(dump).items()}
        tensors = files.checkpoint_tensors(checkpoint.pop("state_dict"), moments)
        sharded.save(Path(filepath), tensors, checkpoint)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.model is not None
        chosen = Path(self.broadcast(checkpoint_path))  # by the first process
        return (_load_shards if chosen.is_dir() else _load_whole)(chosen, self.model, self.optimizers)


def _load_shards(directory: Path, model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Fill the model and the optimisers from a directory."""
    there = sharded.names(directory)
    moments = {name: _moments(parameter, there, name) for name, parameter in _trained(optimizers)}
    tensors = files.checkpoint_tensors(model.state_dict(), moments)
    for name in sorted(there - tensors.keys()):
        if name.startswith(files.WEIGHT):
            raise InputError(f"{directory}: another architecture: an unknown tensor {name}")
    rest = sharded.load(directory, tensors)
    for optimizer in optimizers:
        for name, parameter in _trained([optimizer]):
            if moments[name]:
                optimizer.state[parameter] = moments[name]
    return rest


def _load_whole(file: Path, model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Fill the model and the optimisers from the single file of another strategy, of which each process reads its part."""
    saved = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
    moments = {name: state for dump in saved.pop("optimizer_states", []) for name, state in optim.moments(dump).items()}
    weights = model.state_dict()
    files.check(f"{file}: another architecture", saved["state_dict"], weights)
    for name, tensor in saved.pop("state_dict").items():
        copy_part(weights[name], tensor)
    for optimizer in optimizers:
        for name, parameter in _trained([optimizer]):
            state = _moments(parameter, {f"{files.MOMENT}{name}/{key}" for key in moments.get(name, {})}, name)
            for key, tensor in state.items():
                copy_part(tensor, moments[name][key])
            if state:
                optimizer.state[parameter] = state
    return saved


def _trained(optimizers: list[Optimizer]) -> Iterator[tuple[str, nn.Parameter]]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from zip(group["names"], group["params"], strict=True)


def _moments(parameter: nn.Parameter, there: set[str], name: str) -> dict[str, torch.Tensor]:
    """Empty moments of a parameter, divided as it is, as far as they are `there`."""
    keys = [key for key in ("step", "exp_avg", "exp_avg_sq", "momentum") if f"{files.MOMENT}{name}/{key}" in there]
    step = torch.zeros((), device=local(parameter).device)
    return {key: step if key == "step" else torch.zeros_like(parameter.detach()) for key in keys}


class _WithoutReplicas:
    """Inside it, gradients are not summed over replicas."""

    def __init__(self, module: nn.Module | None, needed: bool) -> None:
        self.blocks = [part for part in module.modules() if isinstance(part, FSDPModule)] if module and needed else []

    def __enter__(self) -> None:
        self._switch(False)

    def __exit__(self, *error: object) -> None:
        self._switch(True)

    def _switch(self, on: bool) -> None:
        for block in self.blocks:
            block.set_requires_all_reduce(on, recurse=False)
