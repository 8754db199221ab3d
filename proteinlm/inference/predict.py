"""``proteinlm predict``: the predictions of a fine-tuned model for unlabelled proteins.

The model is the directory of a fine-tuning that ran with ``keep_weights=true``, or the directory of one of its seeds.
"""

from pathlib import Path
from typing import Any, final

import pyarrow as pa
import torch

from proteinlm import checkpoint, tasks, vocabulary
from proteinlm.checkpoint import Weights, best_of
from proteinlm.config import CustomTaskConfig, LabelledTaskConfig, SecondaryStructureConfig
from proteinlm.data.batches.packing import Packed
from proteinlm.data.formats.letters import STRICT
from proteinlm.errors import InputError
from proteinlm.inference import tables
from proteinlm.inference.jobs import Job, proteins_table
from proteinlm.inference.model import LoadedModel, Placement
from proteinlm.inference.proteins import Window
from proteinlm.models.packed import per_protein
from proteinlm.records.run_directory import BEST, CONFIG, SELECTED, WEIGHTS
from proteinlm.storage.untrusted import read_json, read_yaml
from proteinlm.tasks import task_file
from proteinlm.tasks.regression import ResidueRegression, ScalarRegression

LABEL = "label"
"""The column for predictions of a user's own labels."""
NUMBERS = "numbers"
"""The column for a number of each residue, separated by ``;``."""


@final
class FineTuned(LoadedModel):
    """A backbone and the head of a task."""

    def __init__(self, task: LabelledTaskConfig, weights: Weights, machine: Placement) -> None:
        super().__init__(weights, machine)
        self.task = task
        self.module = tasks.module_of(task)(task, weights.config)
        checkpoint.restore(self.module.parts(), weights)
        self.module.eval().requires_grad_(False).to(machine.device)

    @property
    def advice(self) -> str:  # only `proteinlm contacts` reads in stretches
        return f"; --window {self.positions} reads it in windows" if self.task.name == "contact" else ""

    @torch.inference_mode()
    def output(self, packed: Packed) -> Any:
        """The output of the task's head for packed proteins."""
        with self.machine.autocast():
            return self.module(packed)

    def table(self, window: Window) -> pa.Table:
        """The predictions for a window of proteins, by the names of their columns."""
        rows: dict[int, dict[str, Any]] = {}
        for places, packed in self.machine.batches([protein.letters for protein in window]):
            rows |= zip(places, self._columns(self.output(packed), packed), strict=True)
        ordered = [rows[place] for place in range(len(window))]
        return proteins_table(window, {name: [row[name] for row in ordered] for name in ordered[0]})

    def _columns(self, output: Any, packed: Packed) -> list[dict[str, Any]]:
        """The result columns of each protein of a batch."""
        if isinstance(self.task, SecondaryStructureConfig):
            states = {3: vocabulary.SS3, 8: vocabulary.SS8}[self.task.classes]
            classes = per_protein(output.argmax(dim=-1), packed.starts)
            return [{tables.STRUCTURE: "".join(states[state] for state in part[1:].tolist())} for part in classes]
        if isinstance(self.task, CustomTaskConfig) and self.task.kind in ("class", "residues"):
            return self._class_columns(self.task, output, packed)
        if isinstance(self.module, ResidueRegression):
            values = per_protein(self.module.scale.restore(output.squeeze(-1)), packed.starts)
            return [{NUMBERS: ";".join(f"{value:.6g}" for value in part[1:].tolist())} for part in values]
        if self.task.name == "remote_homology":
            probability, fold = output.softmax(dim=-1).max(dim=-1)
            pairs = zip(fold.tolist(), probability.tolist(), strict=True)
            return [{"fold": fold, "probability": value} for fold, value in pairs]
        assert isinstance(self.module, ScalarRegression)
        values = self.module.scale.restore(output.squeeze(-1))
        column = LABEL if isinstance(self.task, CustomTaskConfig) else self.task.name
        return [{column: value} for value in values.tolist()]

    def _class_columns(self, task: CustomTaskConfig, output: Any, packed: Packed) -> list[dict[str, Any]]:
        """The result columns for a user's own classes, of proteins or of their residues."""
        names = task.classes
        if task.kind == "residues":
            classes = per_protein(output.argmax(dim=-1), packed.starts)
            return [{tables.LABELS: "".join(names[number] for number in part[1:].tolist())} for part in classes]
        rows: list[dict[str, Any]] = []
        for chances in output.softmax(dim=-1).tolist():
            likeliest = max(range(len(names)), key=chances.__getitem__)
            each = {f"probability_{name}": chance for name, chance in zip(names, chances, strict=True)}
            rows.append({LABEL: names[likeliest], "probability": chances[likeliest], **each})
        return rows


def load(path: Path, task: str, machine: Placement) -> FineTuned:
    """Load the fine-tuned model in `path`; of several seeds, the one with the best validation score.

    Raises `InputError` if it was fine-tuned for something else than `task`, or its weights were not kept.
    """
    config = task_file.load(path) or task_of(path)
    if task not in (config.name, config.label):
        raise InputError(f"{path}: fine-tuned for {config.label}, not for {task}")
    weights = _weights(path)
    return FineTuned(task_file.load(weights) or config, checkpoint.load_weights(weights), machine)


def predict(model: FineTuned, source: Path, output: Path | None, letters: str = STRICT) -> None:
    """Write one line for each protein in `source`; see `tables.write_results`."""
    if model.task.name == "contact":
        raise InputError("contact maps are not lines of a table: use proteinlm contacts")
    of_residues = isinstance(model.task, SecondaryStructureConfig) or getattr(model.task, "kind", "") == "residues"
    if output is not None:
        tables.check_output(output, source, states=of_residues)
    job = Job(source, model, model.table, {"of": model.task.label}, "predicting", letters=letters)
    tables.write_results(job, output)


def task_of(path: Path) -> LabelledTaskConfig:
    """The task of the fine-tuning that `path` belongs to; raises `InputError` if it belongs to none."""
    if not path.is_dir():
        raise InputError(f"{path}: no such directory")
    stage = next((place for place in (path, *path.absolute().parents[:3]) if (place / CONFIG).is_file()), None)
    if stage is None:
        raise InputError(f"{path}: no {CONFIG} in it: not the directory of a fine-tuning")
    values = read_yaml(stage / CONFIG)
    return task_file.read(stage / CONFIG, values.get("task") if isinstance(values, dict) else None)


def _weights(path: Path) -> Path:
    """The directory of the best weights below `path`."""
    if (path / WEIGHTS).is_file():
        return path
    best: dict[Path, float] = {}
    for record in sorted([*path.glob(SELECTED), *path.glob(f"seed-*/{SELECTED}")]):
        selected = read_json(record)
        best[best_of(record.parent / BEST, selected["step"])] = selected["score"]
    best = {place: score for place, score in best.items() if (place / WEIGHTS).is_file()}
    if not best:
        raise InputError(f"{path}: no weights in it: fine-tune with keep_weights=true")
    return max(best, key=lambda place: best[place])
