"""One row of the table, all its stages: ``python -m experiments.row -m 'experiment/table7=glob(*)'`` runs all ten."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from proteinlm import launch
from proteinlm.config import RunConfig, register_schema

register_schema()


@hydra.main(version_base="1.3", config_path="../conf", config_name="row")
@launch.reported
def main(composed: DictConfig) -> None:
    config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    log = Path(config.output) / config.group / config.name / "log.txt"
    launch.job("experiments.row", config.strategy.devices, log, lambda: run(config))


def run(config: RunConfig) -> None:
    """Every stage in order, in this process; a finished stage costs nothing."""
    from proteinlm import pretraining

    pretraining.run(config)


if __name__ == "__main__":
    launch.entry(main)
