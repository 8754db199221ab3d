"""The words of a benchmark, and a small protein and model to run it on."""

from experiments.benchmark import __main__ as benchmark
from proteinlm.config import ModelConfig
from proteinlm.launch import entry

SHAPE = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, dropout=0.0, max_positions=64)
TARGET = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


def ask(*words: str) -> None:
    benchmark.run(entry.compose("benchmark", [benchmark.named(word) for word in words]))
