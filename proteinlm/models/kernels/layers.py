"""When functions in C may stand in for layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proteinlm.models.kernels.compiler import load_kernels


def has_kernels(x: Tensor) -> bool:
    """Whether functions in C can read x: a plain tensor on a CPU, not traced, and there is a compiler."""
    if torch.compiler.is_compiling():  # first, so that nothing else of this is traced
        return False
    return x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) and load_kernels() is not None


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `layer` is a `kind` and nothing more: of no other class, without hooks, its own parameters whole, in float32,
    and none missing.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    usual = all(type(each) is nn.Parameter and each.dtype == torch.float32 for each in layer._parameters.values())
    return type(layer) is kind and usual and not any(hooks)


def are_usable(layers: Sequence[nn.LayerNorm | nn.Linear], x: Tensor, multiple: int, rows: int) -> bool:
    """Whether `layers` are plain, their sizes are multiples, and functions that take so many `rows` at once are worth it.

    They are not if x (T, H) is too little work for all threads, or if its gradient alone is needed.
    """
    if not all(is_plain(layer, nn.Linear if isinstance(layer, nn.Linear) else nn.LayerNorm) for layer in layers):
        return False
    if any(size % multiple for layer in layers for size in layer.weight.shape):
        return False
    frozen = torch.is_grad_enabled() and x.requires_grad and not all(layer.weight.requires_grad for layer in layers)
    threads = torch.get_num_threads()
    return not frozen and (threads == 1 or -(-len(x) // rows) >= 2 * threads)


def as_tensor(output: object) -> Tensor:
    """What an autograd function returned, whose type is not known."""
    assert isinstance(output, Tensor)
    return output
