"""Fine-tune on one task: ``python -m experiments.finetune task=contact model.path=runs/single/tiny/pretrain/model``."""

from math import isnan

from proteinlm.config import FinetuneConfig
from proteinlm.launch import entry, processes
from proteinlm.records.results import Score
from proteinlm.training import tracking


@entry.hydra_main("finetune")
def main(config: FinetuneConfig) -> None:
    entry.start("experiments.finetune", config, run)


def run(config: FinetuneConfig) -> None:
    with entry.importing():
        tracking.import_early(config.tracking)
        from proteinlm.training import finetuning

    result = finetuning.run(config)
    for score in result.scores if processes.is_rank_zero() else ():
        print(line(result.row, score))


def line(row: str, score: Score) -> str:
    """One score for the reader."""
    interval = "" if score.low is None or isnan(score.low) else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{row}  {score.task}  {score.split} {score.metric} {score.text()}{interval}  ({score.n:,} proteins)"


if __name__ == "__main__":
    main()
