"""Initial values of a model that no process should hold whole: drawn parameter by parameter, of which each keeps its part.

The model is built on the meta device, and what would have filled its parameters is noted. Once it is divided, the same
fills are made again in the same order, from the same state of the random generator, each in a tensor of its own that is
dropped when the process has taken its share. So the values are those of the undivided model, bit for bit, and the most
that is held whole is one parameter.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM = ("normal_", "uniform_", *(f"{who}_{how}_" for who in ("kaiming", "xavier") for how in ("normal", "uniform")))
CONSTANT = ("zero_", "zeros_", "ones_", "fill_", "constant_")
"""Of tensors, and of ``torch.nn.init``, which come here as a whole."""
FACTORIES = {"zeros": 0.0, "ones": 1.0}


class Fill(NamedTuple):
    """One operation on a tensor."""

    tensor: Tensor
    """On the meta device; kept, so that nothing else gets its identity."""
    make: Callable[..., Any]
    """Takes the tensor to fill, and the rest."""
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    random: bool


class Draws(TorchFunctionMode):
    """Notes what fills the tensors that are made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.get_rng_state()
        self.fills: list[Fill] = []
        self.names: dict[int, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in (*RANDOM, *CONSTANT):
            options = {key: value for key, value in kwargs.items() if key not in ("tensor", "generator")}
            tensor, *arguments = args if args else (kwargs["tensor"],)
            if tensor.is_meta:
                self.fills.append(Fill(tensor, func, tuple(arguments), options, name in RANDOM))
        elif name in FACTORIES and result.is_meta:
            self.fills.append(Fill(result, torch.Tensor.fill_, (FACTORIES[name],), {}, random=False))
        return result

    def know(self, module: nn.Module) -> None:
        """Note which tensors are parameters of `module`, by names that dividing does not change."""
        self.names = {_identity(parameter): name for name, parameter in module.named_parameters()}
        filled = {_identity(fill.tensor) for fill in self.fills}
        unknown = [name for identity, name in self.names.items() if identity not in filled]
        unknown += [name for name, _ in module.named_buffers()]
        assert not unknown, f"filled in a way that is not noted: {', '.join(unknown)}"

    def fill(self, module: nn.Module, device: torch.device, put: Callable[[Tensor, Tensor], None]) -> None:
        """Give the parameters of `module` memory on `device`, and their values, of which ``put(parameter, whole)`` takes
        the process's share.
        """
        module.to_empty(device=device)
        parameters = dict(module.named_parameters())
        last = {_identity(fill.tensor): number for number, fill in enumerate(self.fills)}
        generator = torch.Generator()
        generator.set_state(self.state)
        for number, (tensor, make, arguments, options, random) in enumerate(self.fills):
            identity = _identity(tensor)
            kept = last[identity] == number and identity in self.names
            if kept or random:  # what is drawn over later moves the generator on, too
                whole = torch.empty(tensor.shape, dtype=tensor.dtype)
                with torch.no_grad():
                    make(whole, *arguments, **options, **({"generator": generator} if random else {}))
                if kept:
                    put(parameters[self.names[identity]], whole)


@contextmanager
def noted(wanted: bool) -> Iterator[Draws | None]:
    """Inside it, if `wanted`, models are built without memory, and what would fill them is noted."""
    if not wanted:
        yield None
        return
    with torch.device("meta"), Draws() as draws:
        yield draws


def _identity(tensor: Tensor) -> int:
    """The same for a tensor and the parameter made of it."""
    return tensor.untyped_storage()._cdata
