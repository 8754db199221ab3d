"""The fields that the result records of both stages share."""

from typing import Any

from proteinlm.config import FinetuneConfig, ModelConfig, RunConfig
from proteinlm.config.baselines import family_of
from proteinlm.device import TrainingDevice
from proteinlm.records import results


def common_fields(
    config: RunConfig | FinetuneConfig, shape: ModelConfig, device: TrainingDevice, data: str
) -> dict[str, Any]:
    """Fields of `results.Result` that follow from the config, the backbone's `shape`, the device and the data.

    `data` is the fingerprint of the stage's data.
    """
    provenance = results.provenance()
    return {
        "row": config.name,
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "family": family_of(shape),
        "seed": config.seed,
        "precision": device.precision_name,
        "processes": config.strategy.processes,
        "threads": device.threads,
        "hardware": device.hardware,
        "accelerator": device.accelerator,
        "deterministic": config.train.deterministic,
        "versions": provenance.versions,
        "commit": provenance.commit,
        "source": provenance.source,
        "config": config.digest(),
        "data": data,
    }
