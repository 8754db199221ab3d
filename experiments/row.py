"""One row of the table, all its stages: ``python -m experiments.row -m 'experiment/table7=glob(*)'`` runs all ten."""

import sys
from pathlib import Path

from experiments.table7.rows import SCRATCH, names_of_controls
from proteinlm.config import FinetuneConfig, RowConfig, SyntheticDataConfig
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records import results
from proteinlm.training import tracking


@entry.hydra_main("row")
def main(config: RowConfig) -> None:
    if not is_finished(config):
        entry.start("experiments.row", config, run)


def run(config: RowConfig) -> None:
    """Every stage in order, in this process; a finished stage costs nothing, and one that fails does not stop the next."""
    with entry.importing():
        tracking.import_early(config.tracking)
        from proteinlm.training import finetuning, pretraining

    if not config.start:
        pretraining.run(config.pretraining)
    failures = []
    for stage in stages(config):
        try:
            finetuning.run(stage)
        except InputError as error:
            if stage.strategy.processes > 1:  # the others may not have it, and wait
                raise
            print(f"error: {error}", file=sys.stderr)
            failures.append(f"{stage.name} {stage.task.label}: {error}")
    if failures:
        raise InputError("; ".join(failures))


def is_finished(config: RowConfig) -> bool:
    """Whether all results are there, seen without starting anything; False where that takes a look at the data too."""
    if not isinstance(config.data, SyntheticDataConfig):
        return False
    home = Path(config.output) / config.group / config.name / "pretrain"
    wanted = {} if config.start else {home: config.pretraining.digest()}
    wanted |= {stage.directory: stage.digest() for stage in stages(config)}
    if not all((directory / results.RESULT).exists() for directory in wanted):
        return False
    if any(stage.keep_weights and not stage.kept_weights.exists() for stage in stages(config)):
        return False
    found = {directory: results.load(directory / results.RESULT) for directory in wanted}
    source = results.provenance().source  # these data are what the code makes of the config
    return all((result.config, result.source) == (wanted[directory], source) for directory, result in found.items())


def stages(config: RowConfig) -> list[FinetuneConfig]:
    """What comes after pretraining."""
    controls = names_of_controls(config.control, [config.name])
    return config.finetunings(config.pretrained) + [
        stage for name in controls for stage in config.finetunings(config.backbone, SCRATCH + name)
    ]


if __name__ == "__main__":
    main()
