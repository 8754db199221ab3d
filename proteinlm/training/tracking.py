"""Where metrics go: a CSV file in the run directory and, if wanted, wandb. The only module of the library that imports it.

A run of wandb is one training: a pretraining, or one seed of a fine-tuning. Its group is the sweep, its job type the
stage, and its identity follows from its directory, so that an attempt that goes on adds to the run it began.
"""

import csv
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proteinlm.config import StageConfig, TrackingConfig, digest
from proteinlm.launch import processes
from proteinlm.records.run_directory import METRICS
from proteinlm.storage.atomic import write_text
from proteinlm.training import background
from proteinlm.training.background import Background

if TYPE_CHECKING:
    from proteinlm.records.contact_map import ContactMap

TOKENS, HOURS = "progress/tokens", "progress/hours"
"""What has been trained on, and for how long, over all attempts."""
PAUSE = 1.0
"""Seconds between two of a run's training steps that wandb is told of; the CSV file has all."""
NAMESPACES = ("train", "valid", "test", "progress")
"""First parts of the names that wandb is given; anything else goes under ``test/``."""


def import_early(config: TrackingConfig) -> None:
    """Import wandb, if this process will tell it something, before torch: it looks through all modules that there are, again
    and again.
    """
    if config.backend == "wandb" and processes.is_rank_zero():
        with suppress(Exception):  # of which `WandbRun` tells
            import_module("wandb.sdk.launch")  # the larger part, which wandb.init imports


class MetricsFile:
    """``step,metric,value`` lines, appended as they come; a resumed run first drops those it will write again."""

    def __init__(self, file: Path, step: int) -> None:
        kept = [["step", "metric", "value"]]
        if file.exists():
            with file.open(newline="") as old:
                kept += [row for row in csv.reader(old) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step]
        text = StringIO(newline="")
        csv.writer(text).writerows(kept)
        write_text(file, text.getvalue())
        self._file = file.open("a", newline="", buffering=1)
        self._writer = csv.writer(self._file)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.writerows([step, name, repr(value)] for name, value in metrics.items())


class Tracker:
    """All the places that metrics go to, on the process that reports."""

    def __init__(self, config: StageConfig, stage: str, directory: Path, step: int, seed: int | None = None) -> None:
        self.file = MetricsFile(directory / METRICS, step) if config.tracking.backend != "none" else None
        self.wandb = WandbRun(config, stage, directory, seed) if config.tracking.backend == "wandb" else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write `metrics`, named ``train/…``, ``valid/…`` or ``progress/…``, as they stand after `step` steps."""
        if self.file:
            self.file.log(metrics, step)
        if self.wandb:
            self.wandb.log(metrics, step)

    def conclude(self, scores: Mapping[str, float]) -> None:
        """Tell wandb the final `scores`, by ``task/split/metric``; the result record has them by itself."""
        if self.wandb:
            self.wandb.summarise(scores)

    def show(self, drawn: "ContactMap") -> None:
        """Give wandb a contact map."""
        if self.wandb:
            self.wandb.image(drawn)

    def refer(self, weights: Path) -> None:
        """Tell wandb where the weights are."""
        if self.wandb:
            self.wandb.artifact(weights)

    def finish(self) -> None:
        """End the wandb run; nothing waits for it before the process ends."""
        if self.wandb:
            self.wandb.finish()


class WandbRun:
    """One run of wandb, offline unless WANDB_MODE says otherwise, told in the background."""

    def __init__(self, config: StageConfig, stage: str, directory: Path, seed: int | None) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        self.name = config.name if seed is None else f"{config.name} seed {seed}"
        self._run: Any = None
        self._told = float("-inf")
        self._calls = Background(f"wandb ({stage} of {self.name})", give_up=end_service)
        hyper_parameters = asdict(config) | ({} if seed is None else {"seed": seed})
        facts = {"project": config.tracking.project, "group": config.group, "job_type": stage, "name": self.name}
        facts |= {"id": digest([str(directory.resolve())]), "dir": directory, "config": hyper_parameters}
        self._calls.call(partial(self._begin, facts))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Of training steps that follow each other in less than `PAUSE`, some are left out; of validations none is."""
        now = time.monotonic()
        if now - self._told < PAUSE and all(name.startswith(("train/", "progress/")) for name in metrics):
            return
        self._told = now
        named = {name_in_wandb(name): value for name, value in metrics.items()}
        self._calls.call(lambda: self._run.log(named, step=step))

    def summarise(self, scores: Mapping[str, float]) -> None:
        named = {name_in_wandb(name): value for name, value in scores.items()}
        self._calls.call(lambda: self._run.summary.update(named))

    def image(self, drawn: "ContactMap") -> None:
        self._calls.call(partial(self._image, drawn))

    def artifact(self, weights: Path) -> None:
        self._calls.call(partial(self._artifact, weights))

    def finish(self) -> None:
        self._calls.call(lambda: self._run.finish())
        self._calls.close()

    def _begin(self, facts: dict[str, Any]) -> None:
        import wandb

        # Code and packages are in stamp.json; letting wandb look for them takes a quarter of a second of each run.
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_save_requirements=False
        )
        wandb.setup(settings)
        background.finish_first()  # before wandb's own, which waits for its service for as long as that tries the network
        self._run = wandb.init(**facts, resume="allow", reinit="create_new", settings=settings)
        self._run.define_metric(TOKENS)
        for namespace in NAMESPACES:
            self._run.define_metric(f"{namespace}/*", step_metric=TOKENS)

    def _image(self, drawn: "ContactMap") -> None:
        import wandb

        above = (
            f"{drawn.name or f'record {drawn.record}'}: below the diagonal what touches, above the probability of it"
        )
        self._run.log({"test/contact_map": wandb.Image(drawn.picture(), caption=above)})

    def _artifact(self, weights: Path) -> None:
        import wandb

        made = wandb.Artifact(f"model-{self._run.id}", type="model", metadata={"row": self.name})
        made.add_reference(weights.resolve().as_uri(), checksum=False)  # whose bytes stay where they are
        self._run.log_artifact(made)


def end_service() -> None:
    """End wandb's process, which would hold up the end of ours; what it was told is on the disk, for ``wandb sync``."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.service import service_token

    try:  # wandb has no public way to do without it
        connection = wandb_setup.singleton()._connection
        if connection and connection._proc and connection._cleanup:
            connection._cleanup()
            service_token.clear_service_in_env()
            wandb_setup.singleton()._connection = None
            connection._proc._process.kill()
    except AttributeError as error:
        print(f"warning: wandb may hold up the end of this process: {error}", file=sys.stderr)


def name_in_wandb(name: str) -> str:
    """``valid/loss`` as it is, ``holdout/loss`` as ``test/holdout/loss``."""
    return name if name.split("/")[0] in NAMESPACES else f"test/{name}"
