"""Initial values of a model that no process should hold whole.

The model is built on the meta device, and the operations that would initialise its parameters are recorded. Once the model
is divided, the same operations run again in the same order, from the same state of the random generator, each on a whole
tensor that is dropped when the process has copied its part. So the values are those of the undivided model, bit for bit, and
no process holds more than one whole parameter.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM = ("normal_", "uniform_", *(f"{who}_{how}_" for who in ("kaiming", "xavier") for how in ("normal", "uniform")))
CONSTANT = ("zero_", "zeros_", "ones_", "fill_", "constant_")
"""Methods of tensors, and functions of ``torch.nn.init``, which are recorded as a whole."""
FACTORIES = {"zeros": 0.0, "ones": 1.0}


class Initialiser(NamedTuple):
    """One operation that initialises a tensor."""

    tensor: Tensor
    """On the meta device; referenced here so that no other tensor gets its identity."""
    make: Callable[..., Any]
    """Takes the tensor, then the arguments and options."""
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    random: bool


class InitRecorder(TorchFunctionMode):
    """Records the operations that initialise tensors while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.get_rng_state()
        self.initialisers: list[Initialiser] = []
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
                self.initialisers.append(Initialiser(tensor, func, tuple(arguments), options, name in RANDOM))
        elif name in FACTORIES and result.is_meta:
            self.initialisers.append(Initialiser(result, torch.Tensor.fill_, (FACTORIES[name],), {}, random=False))
        return result

    def name_parameters(self, module: nn.Module) -> None:
        """Record which tensors are parameters of `module`, by names that dividing does not change."""
        self.names = {_identity(parameter): name for name, parameter in module.named_parameters()}
        initialised = {_identity(initialiser.tensor) for initialiser in self.initialisers}
        unknown = [name for identity, name in self.names.items() if identity not in initialised]
        unknown += [name for name, _ in module.named_buffers()]
        assert not unknown, f"initialised in a way that is not recorded: {', '.join(unknown)}"

    def materialise(self, module: nn.Module, device: torch.device, copy_part: Callable[[Tensor, Tensor], None]) -> None:
        """Give the parameters of `module` memory on `device`, and their values: ``copy_part(parameter, whole)`` copies the
        part of this process.
        """
        module.to_empty(device=device)
        parameters = dict(module.named_parameters())
        last = {_identity(initialiser.tensor): number for number, initialiser in enumerate(self.initialisers)}
        generator = torch.Generator()
        generator.set_state(self.state)
        for number, (tensor, make, arguments, options, random) in enumerate(self.initialisers):
            identity = _identity(tensor)
            is_last = last[identity] == number and identity in self.names
            if is_last or random:  # values that are overwritten later move the generator on, too
                whole = torch.empty(tensor.shape, dtype=tensor.dtype)
                with torch.no_grad():
                    make(whole, *arguments, **options, **({"generator": generator} if random else {}))
                if is_last:
                    copy_part(parameters[self.names[identity]], whole)


@contextmanager
def record_init(enabled: bool) -> Iterator[InitRecorder | None]:
    """Build models without memory inside it, if `enabled`, and record the operations that would initialise them."""
    if not enabled:
        yield None
        return
    with torch.device("meta"), InitRecorder() as recorder:
        yield recorder


def _identity(tensor: Tensor) -> int:
    """The identity of the memory, which a tensor and the parameter made of it share."""
    return tensor.untyped_storage()._cdata
