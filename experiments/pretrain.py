"""Pretrain one model: ``python -m experiments.pretrain model=tiny``."""

from proteinlm.config import RunConfig
from proteinlm.launch import entry, processes
from proteinlm.training import tracking


@entry.hydra_main("pretrain")
def main(config: RunConfig) -> None:
    if config.dry_run:
        rehearse(config)
    else:
        entry.start("experiments.pretrain", config, run)


def run(config: RunConfig) -> None:
    with entry.importing():
        tracking.import_early(config.tracking)
        from proteinlm.training import pretraining

    result = pretraining.run(config)
    for score in result.scores if processes.is_rank_zero() else ():
        print(f"{result.row}  {score.split} {score.metric} {score.value:.3f}  ({score.n:,} proteins)")


def rehearse(config: RunConfig) -> None:
    from proteinlm.training import dry_run

    dry_run.run(config)


if __name__ == "__main__":
    main()
