"""``proteinlm pretrain``, ``finetune`` and ``evaluate``. Imports nothing heavy before a stage runs."""

from math import isnan

from proteinlm.config import EvaluateConfig, FinetuneConfig, RunConfig
from proteinlm.launch import entry, processes
from proteinlm.records.results import Score


@entry.hydra_main("pretrain")
def pretrain(config: RunConfig) -> None:
    """Pretrain one model: ``proteinlm pretrain model=tiny``."""
    if config.dry_run:
        from proteinlm.training import dry_run

        dry_run.run(config)
    else:
        entry.start("proteinlm pretrain", config, run_pretraining)


def run_pretraining(config: RunConfig) -> None:
    """Pretrain in this process, and print the scores."""
    with entry.importing():
        from proteinlm.training import tracking

        tracking.import_early(config.tracking)
        from proteinlm.training import pretraining

    result = pretraining.run(config)
    for score in result.scores if processes.is_rank_zero() else ():
        print(f"{result.row}  {score.split} {score.metric} {score.value:.3f}  ({score.n:,} proteins)")


@entry.hydra_main("finetune")
def finetune(config: FinetuneConfig) -> None:
    """Fine-tune on one task: ``proteinlm finetune task=contact model.path=runs/single/tiny/pretrain/model``."""
    entry.start("proteinlm finetune", config, run_finetuning)


def run_finetuning(config: FinetuneConfig) -> None:
    """Fine-tune in this process, and print the scores."""
    with entry.importing():
        from proteinlm.training import tracking

        tracking.import_early(config.tracking)
        from proteinlm.training import finetuning

    result = finetuning.run(config)
    for score in result.scores if processes.is_rank_zero() else ():
        print(score_line(result.row, score))


@entry.hydra_main("evaluate")
def evaluate(config: EvaluateConfig) -> None:
    """Score kept weights: the words of a fine-tuning that ran with ``keep_weights=true``, and ``split=valid``."""
    entry.start("proteinlm evaluate", config, run_evaluation)


def run_evaluation(config: EvaluateConfig) -> None:
    """Score kept weights in this process, and print the scores."""
    with entry.importing():
        from proteinlm.training import finetuning

    scores = finetuning.evaluate(config)
    for score in scores if processes.is_rank_zero() else ():
        print(score_line(config.name, score))


def score_line(row: str, score: Score) -> str:
    """One score with its interval and the number of proteins, for the reader."""
    interval = "" if score.low is None or isnan(score.low) else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{row}  {score.task}  {score.split} {score.metric} {score.text()}{interval}  ({score.n:,} proteins)"


COMMANDS = {"pretrain": pretrain, "finetune": finetune, "evaluate": evaluate}
"""The Hydra commands by name, each of which reads its words from ``sys.argv``."""
