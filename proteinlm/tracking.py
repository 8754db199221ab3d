"""Where metrics go: a CSV file in the run directory and, if wanted, wandb. The only module that imports wandb."""

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from proteinlm.config import StageConfig, digest

METRICS = "metrics.csv"


class MetricsFile:
    """``step,metric,value`` lines, appended as they come; a resumed run first drops those it will write again."""

    def __init__(self, file: Path, step: int) -> None:
        kept = [["step", "metric", "value"]]
        if file.exists():
            with file.open(newline="") as old:
                kept += [row for row in csv.reader(old) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step]
        self._file = file.open("w", newline="", buffering=1)
        self._writer = csv.writer(self._file)
        self._writer.writerows(kept)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.writerows([step, name, repr(value)] for name, value in metrics.items())


class Tracker:
    """All the places that metrics go to, on the process that reports."""

    def __init__(self, config: StageConfig, stage: str, directory: Path, step: int) -> None:
        self.file = MetricsFile(directory / METRICS, step) if config.tracking.backend != "none" else None
        self.wandb = _wandb(config, stage, directory) if config.tracking.backend == "wandb" else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write `metrics`, named ``train/…``, ``valid/…`` or ``progress/…``, as they stand after `step` steps."""
        if self.file:
            self.file.log(metrics, step)
        if self.wandb:
            self.wandb.log_metrics(dict(metrics), step=step)

    def finish(self) -> None:
        """Close the wandb run, so that the next stage in this process gets its own."""
        if self.wandb:
            self.wandb.experiment.finish()


def _wandb(config: StageConfig, stage: str, directory: Path) -> WandbLogger:
    """Offline unless WANDB_MODE says otherwise; the run's identity follows from its directory, so it can be resumed."""
    import wandb

    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=config.tracking.project,
        group=config.group,
        job_type=stage,
        name=config.name,
        id=digest([str(directory.resolve())]),
        resume="allow",
        save_dir=directory,
        log_model=False,
        settings=wandb.Settings(console="off", silent=True),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes a setting that wandb has dropped: it warns of it
    logger.log_hyperparams(asdict(config))
    return logger
