"""The task of a fine-tuned model, in a file beside its weights: what it predicts, and the names of its classes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proteinlm import tasks
from proteinlm.config import CustomTaskConfig, LabelledTaskConfig, SecondaryStructureConfig
from proteinlm.errors import InputError
from proteinlm.records.run_directory import TASK
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_json

CONFIGS: dict[str, type[LabelledTaskConfig]] = {
    "secondary_structure": SecondaryStructureConfig,
    "custom": CustomTaskConfig,
}
"""Tasks with knobs of their own."""


def save(directory: Path, task: LabelledTaskConfig) -> None:
    """Write the task of the weights in `directory`."""
    write_text(directory / TASK, json.dumps(asdict(task), indent=2) + "\n")


def load(directory: Path) -> LabelledTaskConfig | None:
    """The task of the weights in `directory`; None if they were saved without it."""
    file = directory / TASK
    if not file.is_file():
        return None
    try:
        values = read_json(file)
    except ValueError as error:
        raise InputError(f"{file}: not a task: {error}") from None
    return read(file, values)


def read(origin: Path, values: Any) -> LabelledTaskConfig:
    """A task from its plain `values`; `InputError` naming `origin` if they are of none."""
    name = values.get("name") if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping) or name not in (*tasks.TASKS, "custom"):
        raise InputError(f"{origin}: its task is {name}: not the directory of a fine-tuning")
    try:
        return CONFIGS.get(str(name), LabelledTaskConfig)(**{str(key): value for key, value in values.items()})
    except (TypeError, InputError) as error:
        raise InputError(f"{origin}: not a task of this version: {error}") from None
