"""Pretrain one model: ``python -m experiments.pretrain model=tiny``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from proteinlm import launch, tracking
from proteinlm.config import RunConfig, register_schema

register_schema()


@hydra.main(version_base="1.3", config_path=str(launch.CONF), config_name="pretrain")
@launch.reported
def main(composed: DictConfig) -> None:
    config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    if config.dry_run:
        rehearse(config)
        return
    log = Path(config.output) / config.group / config.name / "log.txt"
    launch.job("experiments.pretrain", config.strategy, log, lambda: run(config))


def run(config: RunConfig) -> None:
    with launch.importing():
        tracking.import_early(config.tracking)
        from proteinlm import pretraining

    result = pretraining.run(config)
    for score in result.scores if launch.reports() else ():
        print(f"{result.row}  {score.split} {score.metric} {score.value:.3f}  ({score.n:,} proteins)")


def rehearse(config: RunConfig) -> None:
    from proteinlm import rehearsal

    rehearsal.run(config)


if __name__ == "__main__":
    launch.entry(main)
