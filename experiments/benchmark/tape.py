"""TAPE's tasks as benchmarks of a frozen model: ``tape/secondary_structure``, ``tape/stability`` and their like.

TAPE's raw JSON lies in ``tape/TASK/TASK_SPLIT.json``, perhaps with .gz. Each of its test splits is one split here, with
TAPE's own proteins to train on and for validation.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from proteinlm.config import CustomTaskConfig
from proteinlm.config.tasks import KINDS
from proteinlm.data.csv_labels import LabelledRows
from proteinlm.data.formats.biotrainer import UNKNOWN, Row
from proteinlm.errors import InputError
from proteinlm.vocabulary import SS3

CLASS, NUMBER, RESIDUES, _ = KINDS
TESTS = {
    "secondary_structure": ("cb513", "cb513_proper", "ts115", "casp12"),
    "remote_homology": ("test_fold_holdout", "test_superfamily_holdout", "test_family_holdout"),
    "fluorescence": ("test",),
    "stability": ("test",),
}
"""The test splits of each task. ``cb513_proper`` scores the residues of CB513's domains alone, where records mark these."""
PUBLISHED = {
    ("secondary_structure", "cb513"): 0.73,
    ("remote_homology", "test_fold_holdout"): 0.23,
    ("fluorescence", "test"): 0.67,
    ("stability", "test"): 0.73,
}
"""TAPE's numbers of UniRep, trained with the task's own head: accuracy, and Spearman of the last two."""
PROPER, MARK = "cb513_proper", "cb513_mask"
FIELDS = {"fluorescence": "log_fluorescence", "stability": "stability_score", "remote_homology": "fold_label"}


def read_tape(root: Path, task: str, split: str = "") -> dict[str, LabelledRows]:
    """The splits of a task below the directory `root`, or one of them.

    Raises `InputError` for a task or split that there is not, and for a file that is missing or damaged.
    """
    if task not in TESTS:
        raise InputError(f"tape/{task} is not one of {', '.join(f'tape/{name}' for name in TESTS)}")
    if split and split not in TESTS[task]:
        raise InputError(f"split={split} is not one of {', '.join(TESTS[task])} (tape/{task})")
    tests = (split,) if split else TESTS[task]
    if PROPER in tests and not any(MARK in record for record in read_records(root, task, "cb513")):
        if split:
            raise InputError(f"{root / 'tape' / task}: no record of cb513 has a {MARK}, which {PROPER} needs")
        tests = tuple(name for name in tests if name != PROPER)
    shared = {name: _rows(root, task, name) for name in ("train", "valid")}
    splits = {name: {**shared, "test": _rows(root, task, name)} for name in tests}
    return {name: _labelled(root / "tape" / task, task, name, parts) for name, parts in splits.items()}


def read_records(root: Path, task: str, split: str) -> list[dict[str, Any]]:
    """The records of a split by TAPE's field names; `InputError` names a file that is missing or damaged."""
    stem = root / "tape" / task / f"{task}_{split}.json"
    file = next((path for path in (stem, Path(f"{stem}.gz")) if path.is_file()), None)
    if file is None:
        raise InputError(f"{stem}: no such file, nor with .gz")
    try:
        content = file.read_bytes()
        return json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{file}: damaged: {error}") from None


def _labelled(path: Path, task: str, split: str, parts: dict[str, list[Row]]) -> LabelledRows:
    kind = {"secondary_structure": RESIDUES, "remote_homology": CLASS}.get(task, NUMBER)
    classes = sorted({row.label for row in parts["train"]}, key=int) if kind == CLASS else []
    config = CustomTaskConfig(kind=kind, classes=[*SS3] if kind == RESIDUES else classes)
    remarks = []
    if kind == CLASS:
        unseen = [row for row in parts["test"] if row.label not in config.classes]
        parts |= {name: [row for row in parts[name] if row.label in config.classes] for name in ("valid", "test")}
        remarks += [f"{len(unseen)} proteins are of classes that nothing is trained on, and left out"] if unseen else []
    published = PUBLISHED.get((task, split))
    remarks += [f"TAPE's UniRep, trained with the task's head: {published}"] if published else []
    return LabelledRows(path, parts, config, tuple(remarks))


def _rows(root: Path, task: str, split: str) -> list[Row]:
    records = read_records(root, task, split.removesuffix("_proper"))
    place = {"train": "train", "valid": "valid"}.get(split, "test")
    try:
        return [
            Row(number, str(record["id"]), record["primary"], _label(record, task, split), place)
            for number, record in enumerate(records)
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{root / 'tape' / task}, {split}: a record has no {error}") from None


def _label(record: dict[str, Any], task: str, split: str) -> str:
    if task != "secondary_structure":
        return str(_first(record[FIELDS[task]]))
    kept = record["valid_mask"]
    if split == PROPER:  # a chain without marks has no residue in a domain
        kept = [both and own for both, own in zip(kept, record.get(MARK, [0.0] * len(kept)), strict=True)]
    return "".join(SS3[state] if there else UNKNOWN for state, there in zip(record["ss3"], kept, strict=True))


def _first(value: float | Sequence[float]) -> float:
    return next(iter(value)) if isinstance(value, Iterable) else value
