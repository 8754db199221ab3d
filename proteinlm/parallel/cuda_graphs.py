"""Forward and backward pass of a micro-batch as CUDA graphs: recorded once for each shape, then replayed in one launch each.

The gradients are added up in place inside the recorded backward pass. PyTorch's own wrappers of CUDA graphs hand out the
memory that the next replay writes to, and sum the gradients of several micro-batches wrongly (pytorch/pytorch issues 181723
and 169545).
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from proteinlm.errors import InputError

WARMING = 3
"""Passes before one is recorded, in which kernels are compiled and libraries set up."""


def require_cuda_graphs(device: torch.device, precision: str) -> None:
    """Raise `InputError` unless `device` has CUDA graphs and computes in bf16."""
    if device.type != "cuda":
        raise InputError(
            f"train.cuda_graphs=true needs a CUDA GPU, and this process computes on the {device.type.upper()}"
        )
    if precision != "bf16-mixed":
        raise InputError("train.cuda_graphs=true needs a GPU with bf16, whose attention does not wait for the host")


class Recorder:
    """Records work on the GPU; all records share one pool of memory, as never two of them are in use."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do the work a few times beforehand."""
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARMING):
                work()
        torch.cuda.synchronize()

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """What does the recorded work again, with the same memory."""
        graph = torch.cuda.CUDAGraph()
        # a loader's thread may pin memory at the same time, which the default mode forbids to all threads
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            work()
        return graph.replay


class InPython:
    """Stands in for `Recorder` where there are no CUDA graphs: what was recorded is done again, with the same memory."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do nothing."""

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """The work itself, which is not done yet, as recording does not do it either."""
        return work


class StepGraphs:
    """The graphs of all shapes of micro-batches that have come so far.

    A replay draws dropout from the generator as it is then, and adds to the gradients of the `parameters`, which stay where
    they are: `clear_gradients` takes the place of the optimiser's ``zero_grad``.
    """

    def __init__(self, loss: Callable[..., Tensor], parameters: Iterable[nn.Parameter]) -> None:
        """`loss` of the input tensors must neither wait for the device nor depend on anything else that varies."""
        self.loss = loss
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.clear_gradients()
        self.divisor = torch.ones((), device=self.parameters[0].device)
        self.recorder = Recorder() if self.divisor.is_cuda else InPython()
        self.shapes: dict[tuple[torch.Size, ...], _Recorded] = {}
        self.current: _Recorded | None = None

    def load(self, *inputs: Tensor) -> None:
        """Copy the inputs to where the graphs of their shape read them; records these if there are none, which draws
        random numbers.
        """
        shape = tuple(one.shape for one in inputs)
        if shape not in self.shapes:
            self.shapes[shape] = _Recorded(self, inputs)
        self.current = self.shapes[shape]
        for kept, given in zip(self.current.inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)

    def forward(self, divisor: float) -> Tensor:
        """The loss of what was loaded, over `divisor`; it has no gradient of its own."""
        assert self.current
        self.divisor.fill_(divisor)
        self.current.replay_forward()
        return self.current.output.detach().clone()

    def backward(self) -> None:
        """Add the gradient of the latest `forward` to those of the parameters."""
        assert self.current
        self.current.replay_backward()
        self.current = None

    def clear_gradients(self) -> None:
        """Set the gradients to zero, and give them back to parameters that a skipped update took them from."""
        torch._foreach_zero_(self.gradients)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


class _Recorded:
    """The two graphs of one shape."""

    def __init__(self, graphs: StepGraphs, inputs: tuple[Tensor, ...]) -> None:
        self.graphs, self.inputs = graphs, [one.clone() for one in inputs]
        self.output = graphs.divisor
        graphs.recorder.warm_up(lambda: (self._forward(), self._slopes()))
        self.replay_forward = graphs.recorder.record(self._forward)
        self.replay_backward = graphs.recorder.record(self._backward)

    def _forward(self) -> None:
        device = self.graphs.divisor.device.type
        # a weight's copy in bf16 that autocast remembers from before would be replayed for ever
        precision = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        with torch.autocast(device, **precision, cache_enabled=False):
            self.output = self.graphs.loss(*self.inputs) / self.graphs.divisor

    def _slopes(self) -> tuple[Tensor, ...]:
        with torch.autocast(self.graphs.divisor.device.type, enabled=False):
            return torch.autograd.grad(self.output, self.graphs.parameters)

    def _backward(self) -> None:
        torch._foreach_add_(self.graphs.gradients, list(self._slopes()))
