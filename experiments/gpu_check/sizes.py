"""How much the check computes: on a GPU, and in the tests on a CPU."""

from dataclasses import dataclass

import torch

from proteinlm.config import ModelConfig, SyntheticDataConfig


@dataclass(frozen=True)
class Sizes:
    """What all parts are given."""

    device: torch.device
    head_dims: tuple[int, ...]
    tokens: int
    """Of a micro-batch in the parts that check."""
    longest: int
    """Residues of a protein."""
    checked: ModelConfig
    """The model of the parts that check."""
    shapes: tuple[ModelConfig, ...]
    """The models that are timed."""
    timed_tokens: int
    """Of a micro-batch that is timed."""
    compiler: str
    """torch.compile's backend."""
    run: ModelConfig
    """The model that is pretrained."""
    run_tokens: int
    """Of one of its micro-batches, of which a step has two."""
    run_seconds: float
    run_perplexity: float | None
    """What the pretrained model must stay below; None where it is too short."""
    threads: int
    """Of the CPU; 0 takes all that there are."""
    universe: SyntheticDataConfig


def on_gpu(shapes: tuple[ModelConfig, ...]) -> Sizes:
    """For a GPU, where all parts together take under eight minutes."""
    return Sizes(
        device=torch.device("cuda"),
        head_dims=(16, 20, 24, 32, 64, 96, 128, 256),
        tokens=16_384,
        longest=1023,
        checked=ModelConfig(512, 4, 8, dropout=0.0),
        shapes=shapes,
        timed_tokens=32_768,
        compiler="inductor",
        run=ModelConfig(512, 9, 8),  # 29 million parameters
        run_tokens=32_768,
        run_seconds=180.0,
        run_perplexity=15.0,  # 20 letters alone guess by their frequencies to about 18
        threads=0,
        universe=SyntheticDataConfig(),
    )


def tiny() -> Sizes:
    """For a CPU, in seconds: every line but the kernels."""
    return Sizes(
        device=torch.device("cpu"),
        head_dims=(16, 20),
        tokens=512,
        longest=100,
        checked=ModelConfig(32, 2, 2, dropout=0.0, max_positions=128),
        shapes=(ModelConfig(32, 2, 2, dropout=0.0, max_positions=128),),
        timed_tokens=512,
        compiler="aot_eager",
        run=ModelConfig(32, 2, 2, max_positions=128),
        run_tokens=1024,
        run_seconds=0.5,
        run_perplexity=None,
        threads=1,
        universe=SyntheticDataConfig(folds=5, members=6),
    )
