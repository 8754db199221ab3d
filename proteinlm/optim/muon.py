"""Muon for the matrices and AdamW for the rest, in one optimiser."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

from proteinlm.parallel.dtensors import local

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Newton-Schulz's quintic (K. Jordan, https://kellerjordan.github.io/posts/muon/): five rounds take any singular value
to between 0.7 and 1.2."""
STACKED = 2**21
"""Numbers of small matrices that are multiplied together: a product of some hundred rows by itself keeps no machine busy."""


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
        """Update the matrices; as in AdamW, nothing changes where ``found_inf`` () is 1, whatever the gradients are."""
        skip: Tensor | None = getattr(self, "found_inf", None)
        rate, decay = group["lr"], group["lr"] * group["weight_decay"]
        for stack in stacks([parameter for parameter in group["params"] if parameter.grad is not None]):
            apply = torch.ones((), device=stack[0].device) if skip is None else 1 - skip
            directions = [self._direction(matrix, skip, apply) for matrix in stack]
            for matrix, update in zip(stack, orthogonal(directions, group.get("bf16", False)), strict=True):
                scale = rate * 0.2 * max(matrix.shape) ** 0.5
                local(matrix).mul_(1 - decay * apply).addcmul_(local(update), apply, value=-scale)

    def _direction(self, matrix: Tensor, skip: Tensor | None, apply: Tensor) -> Tensor:
        """Nesterov's, after the gradient of `matrix` has gone into its momentum."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), device=matrix.device)  # AdamW's loading of a state asks for it
            state["momentum"] = torch.zeros_like(gradient)
        if skip is not None:
            gradient = gradient.clone()
            local(gradient).masked_fill_(skip > 0, 0)
        state["step"] += apply
        local(state["momentum"]).lerp_(local(gradient), (1 - MOMENTUM) * apply)
        return gradient.lerp(state["momentum"], MOMENTUM)


def stacks(matrices: Sequence[Tensor]) -> list[list[Tensor]]:
    """`matrices` in lists of one shape, lying or standing, up to `STACKED` numbers or a single matrix in each."""
    lists: list[list[Tensor]] = []
    latest: dict[tuple[int, ...], list[Tensor]] = {}
    for matrix in matrices:
        shape = tuple(sorted(matrix.shape))
        stack = latest.get(shape)
        if stack is None or (len(stack) + 1) * matrix.numel() > STACKED:
            stack = latest[shape] = []
            lists.append(stack)
        stack.append(matrix)
    return lists


def orthogonal(matrices: Sequence[Tensor], bf16: bool = False) -> list[Tensor]:
    """Each of `matrices` with its singular values replaced by numbers near 1; any scale; `bf16`: by products in it.

    They are (M, K) or (K, M), whole or divided among processes.
    """
    wholes = [matrix.full_tensor() if isinstance(matrix, DTensor) else matrix for matrix in matrices]
    lying = [x.mT if x.shape[0] > x.shape[1] else x for x in wholes]
    directions = newton_schulz(torch.stack([x.bfloat16() if bf16 else x for x in lying]))  # (G, M, K), M <= K
    updates = [
        x.mT if tall.shape[0] > tall.shape[1] else x
        for x, tall in zip(directions.to(wholes[0].dtype), wholes, strict=True)
    ]
    return [
        distribute_tensor(x, matrix.device_mesh, matrix.placements, src_data_rank=None)
        if isinstance(matrix, DTensor)
        else x
        for x, matrix in zip(updates, matrices, strict=True)
    ]


def newton_schulz(x: Tensor) -> Tensor:
    """`ITERATIONS` rounds over x (G, M, K), M <= K."""
    a, b, c = COEFFICIENTS
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (G, M, M)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
