"""Fine-tune on one task: ``python -m experiments.finetune task=contact model.path=runs/single/tiny/pretrain/model``."""

import hydra
from omegaconf import DictConfig, OmegaConf

from proteinlm.config import FinetuneConfig, register_schema
from proteinlm.launch import entry
from proteinlm.records.results import Score
from proteinlm.training import tracking

register_schema()


@hydra.main(version_base="1.3", config_path=str(entry.CONF), config_name="finetune")
@entry.reported
def main(composed: DictConfig) -> None:
    config: FinetuneConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    log = config.directory.parent / f"{config.task.label}.log"
    entry.job("experiments.finetune", config.strategy, log, lambda: run(config))


def run(config: FinetuneConfig) -> None:
    with entry.importing():
        tracking.import_early(config.tracking)
        from proteinlm.training import finetuning

    result = finetuning.run(config)
    for score in result.scores if entry.reports() else ():
        print(line(result.row, score))


def line(row: str, score: Score) -> str:
    """One score for the reader."""
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{row}  {score.task}  {score.split} {score.metric} {score.value:.3f}{interval}  ({score.n:,} proteins)"


if __name__ == "__main__":
    entry.entry(main)
