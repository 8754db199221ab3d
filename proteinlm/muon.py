"""Muon for the matrices and AdamW for the rest, in one optimiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

from proteinlm.divided import local

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Newton-Schulz's quintic (K. Jordan, https://kellerjordan.github.io/posts/muon/): five rounds take any singular value
to between 0.7 and 1.2."""


class MuonAdamW(AdamW):
    """AdamW, but for groups marked ``muon``: those hold matrices, whose update is their momentum with all singular values
    near 1, at the root mean square of an AdamW update (0.2; arXiv 2502.16982), so that both share a learning rate.

    The function of ``torch.optim.Muon`` with Nesterov's momentum and ``match_rms_adamw``, whose products are in bfloat16 in
    groups marked ``bf16``; for matrices that are divided among processes too, each of which then computes it whole.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group.get("muon"):
                self._step_matrices(group)
        try:
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """With ``found_inf`` (), as AdamW: where it is 1, nothing changes, whatever the gradients are."""
        held: Tensor | None = getattr(self, "found_inf", None)
        rate, decay = group["lr"], group["lr"] * group["weight_decay"]
        for matrix in (parameter for parameter in group["params"] if parameter.grad is not None):
            state, gradient = self.state[matrix], matrix.grad
            if not state:
                state["step"] = torch.zeros((), device=matrix.device)  # AdamW's loading of a state asks for it
                state["momentum"] = torch.zeros_like(gradient)
            taken = torch.ones((), device=matrix.device) if held is None else 1 - held
            if held is not None:
                gradient = gradient.clone()
                local(gradient).masked_fill_(held > 0, 0)
            momentum, own = state["momentum"], local(matrix)
            state["step"] += taken
            local(momentum).lerp_(local(gradient), (1 - MOMENTUM) * taken)
            update = orthogonal(gradient.lerp(momentum, MOMENTUM), group.get("bf16", False))
            own.mul_(1 - decay * taken).addcmul_(local(update), taken, value=-rate * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor, bf16: bool = False) -> Tensor:
    """`matrix` (M, K) with its singular values replaced by numbers near 1; any scale; `bf16`: by products in it."""
    if isinstance(matrix, DTensor):
        made = orthogonal(matrix.full_tensor(), bf16)
        return distribute_tensor(made, matrix.device_mesh, matrix.placements, src_data_rank=None)
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if bf16 else matrix
    x = x.mT if x.shape[0] > x.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
