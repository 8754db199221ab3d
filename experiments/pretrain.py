"""Pretrain one model: ``python -m experiments.pretrain model=tiny``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from proteinlm.config import RunConfig, register_schema
from proteinlm.launch import entry
from proteinlm.training import tracking

register_schema()


@hydra.main(version_base="1.3", config_path=str(entry.CONF), config_name="pretrain")
@entry.reported
def main(composed: DictConfig) -> None:
    config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    if config.dry_run:
        rehearse(config)
        return
    log = Path(config.output) / config.group / config.name / "log.txt"
    entry.job("experiments.pretrain", config.strategy, log, lambda: run(config))


def run(config: RunConfig) -> None:
    with entry.importing():
        tracking.import_early(config.tracking)
        from proteinlm.training import pretraining

    result = pretraining.run(config)
    for score in result.scores if entry.reports() else ():
        print(f"{result.row}  {score.split} {score.metric} {score.value:.3f}  ({score.n:,} proteins)")


def rehearse(config: RunConfig) -> None:
    from proteinlm.training import dry_run

    dry_run.run(config)


if __name__ == "__main__":
    entry.entry(main)
