"""Where dropout gets its numbers from. Pure PyTorch."""

import torch


def reseed(seed: int, device: torch.device) -> None:
    """Let the generators of the CPU and of `device` start again at `seed`.

    `torch.manual_seed` also visits every other kind of accelerator, and where there is none it records a stack trace of
    each call for later: milliseconds, which a small batch notices.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
