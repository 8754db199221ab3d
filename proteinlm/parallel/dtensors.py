"""Tensors that several processes may divide between them, and plain ones alike."""

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """The processes that a tensor is divided among, if it is."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process of its mesh must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
