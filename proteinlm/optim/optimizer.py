"""AdamW with decay on matrices only, linear warm-up and linear decay (ProteinLM's published recipe).

Parameters may be plain tensors and DTensors of several meshes side by side. One fused update, or one norm, takes
tensors of one mesh only, so they are grouped by it. An optimiser's state goes by the names of
the parameters, so that it fits a model that is divided in another way.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from proteinlm.config import ModelConfig, OptimConfig
from proteinlm.models import mup
from proteinlm.optim.muon import MuonAdamW
from proteinlm.parallel.dtensors import local, mesh_of, whole

Moments = dict[str, dict[str, Tensor]]
"""The moments that AdamW keeps of each parameter, by the name of the parameter."""


class Schedule(LambdaLR):
    """A learning rate that depends on the number of steps alone, which is all its state, so that it fits any groups."""

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._last_lr = [b * f(self.last_epoch) for b, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def build(
    module: nn.Module,
    config: OptimConfig,
    steps: int,
    model: ModelConfig,
    adamw: Callable[..., Optimizer] = MuonAdamW,
    bf16: bool = False,
) -> tuple[Optimizer, Schedule]:
    """The optimiser of `module`, made by `adamw`, and its schedule over `steps` optimiser steps.

    With `bf16`, Muon multiplies in bfloat16, as the forward pass then does.

    Biases and LayerNorms are not decayed, embeddings are, as in Megatron. Learning rates are those for the shape of
    `model` (`models.mup`); the decay of a step stays the same under them.
    """
    groups: dict[tuple[bool, DeviceMesh | None, bool, float], dict[str, Any]] = {}
    for matrices in (True, False):
        for name, parameter in module.named_parameters():
            if (parameter.ndim >= 2) is matrices:
                muon = config.matrices == "muon" and parameter.ndim == 2 and name.startswith("backbone.blocks.")
                factor = mup.rate(name, model, muon)
                fresh = {
                    "params": [],
                    "names": [],
                    "muon": muon,
                    "bf16": muon and bf16,
                    "lr": factor * config.learning_rate,
                    "weight_decay": config.weight_decay / factor if matrices else 0.0,
                }
                group = groups.setdefault((matrices, mesh_of(parameter), muon, factor), fresh)
                group["params"].append(parameter)
                group["names"].append(name)
    optimizer = adamw(
        list(groups.values()),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    if isinstance(optimizer, AdamW):
        optimizer.register_load_state_dict_pre_hook(lambda optimizer, state: reorder_state(state, optimizer))
    return optimizer, Schedule(optimizer, lambda done: learning_rate(config, done + 1, steps) / config.learning_rate)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Rate of the `step`-th of `steps` updates, counted from 1 (``megatron/learning_rates.py``)."""
    warmup = config.warmup_fraction * steps
    if step <= warmup:
        return config.learning_rate * step / warmup
    remaining = (steps - step) / (steps - warmup)
    return config.min_learning_rate + remaining * (config.learning_rate - config.min_learning_rate)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to the global norm `max_norm`, as ``clip_grad_norm_`` does; returns the norm they had, ()."""
    by_mesh: dict[DeviceMesh | None, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh.setdefault(mesh_of(parameter.grad), []).append(parameter.grad)
    norms = [whole(nn.utils.get_total_norm(gradients)) for gradients in by_mesh.values()]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(gradient) for gradients in by_mesh.values() for gradient in gradients], scale)
    return norm


def skip_update(optimizer: Optimizer, skip: Tensor) -> None:
    """Make the next update change nothing if `skip` () is 1; if it is 0, the update is made as usual.

    AdamW and Muon read the number on the device, as they do for loss scaling, so nothing waits for it.
    """
    inner = getattr(optimizer, "optim", optimizer)  # out of fairscale's OSS
    groups = inner.param_groups
    if isinstance(inner, AdamW) and all(group["fused"] for group in groups):
        inner.found_inf = skip  # type: ignore[attr-defined]
    elif skip.item():  # without gradients, any optimiser passes a parameter over
        for group in groups:
            for parameter in group["params"]:
                parameter.grad = None


def moments(state: dict[str, Any]) -> Moments:
    """The state in an optimiser's ``state_dict()``, by the names of the parameters."""
    names = (name for group in state["param_groups"] for name in group["names"])
    numbers = (number for group in state["param_groups"] for number in group["params"])
    return {
        name: state["state"][number] for number, name in zip(numbers, names, strict=True) if number in state["state"]
    }


def reorder_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The ``state_dict()`` of any grouping in the order of `optimizer`, with the settings that `optimizer` has itself."""
    known, own = moments(state), optimizer.param_groups
    numbers = iter(range(sum(len(group["params"]) for group in own)))
    groups = [group | {"params": [next(numbers) for _ in group["params"]]} for group in own]
    names = [name for group in own for name in group["names"]]
    return {"state": {i: known[name] for i, name in enumerate(names) if name in known}, "param_groups": groups}
