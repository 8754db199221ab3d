"""Fine-tune on one task: ``python -m experiments.finetune task=contact model.path=runs/single/tiny/pretrain/model``."""

import hydra
from omegaconf import DictConfig, OmegaConf

from proteinlm import launch, tracking
from proteinlm.config import FinetuneConfig, register_schema
from proteinlm.results import Score

register_schema()


@hydra.main(version_base="1.3", config_path=str(launch.CONF), config_name="finetune")
@launch.reported
def main(composed: DictConfig) -> None:
    config: FinetuneConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    log = config.directory.parent / f"{config.task.label}.log"
    launch.job("experiments.finetune", config.strategy, log, lambda: run(config))


def run(config: FinetuneConfig) -> None:
    with launch.importing():
        tracking.import_early(config.tracking)
        from proteinlm import finetuning

    result = finetuning.run(config)
    for score in result.scores if launch.reports() else ():
        print(line(result.row, score))


def line(row: str, score: Score) -> str:
    """One score for the reader."""
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{row}  {score.task}  {score.split} {score.metric} {score.value:.3f}{interval}  ({score.n:,} proteins)"


if __name__ == "__main__":
    launch.entry(main)
