"""The random numbers of dropout. Pure PyTorch."""

import torch


def reseed(seed: int, device: torch.device) -> None:
    """Seed the CPU generator and that of `device`.

    `torch.manual_seed` also visits every other kind of accelerator, and where there is none it records a stack trace of
    each call for later: milliseconds, which a small batch notices.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
