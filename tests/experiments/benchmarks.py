"""The words of a benchmark, and small files and a model to run it on."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark import __main__ as benchmark
from proteinlm.config import ModelConfig
from proteinlm.launch import entry

SHAPE = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, dropout=0.0, max_positions=64)
TARGET = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"

REFERENCE = (
    "DMS_id,DMS_filename,UniProt_ID,taxon,target_seq,coarse_selection_type,MSA_Neff_L_category,DMS_total_number_mutants"
)


def ask(*words: str) -> None:
    benchmark.run(entry.compose("benchmark", [benchmark.named(word) for word in words]))


def write_tape(root: Path, task: str, **splits: list[dict[str, Any]]) -> None:
    """Records of splits of one of TAPE's tasks, as published; they get names."""
    folder = root / "tape" / task
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        own = [{"id": f"{split}{number}", **record} for number, record in enumerate(records)]
        (folder / f"{task}_{split}.json.gz").write_bytes(gzip.compress(json.dumps(own).encode()))


def flip(root: Path) -> None:
    """Variants of one protein, whose target is how many of two positions are W; in an archive as published."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(90):
        letters = list(TARGET)
        for position in rng.choice(len(TARGET), 3, replace=False):
            letters[position] = rng.choice(list("ACDW"))
        target = sum(letters[position] == "W" for position in (4, 9)) + 0.01 * letters.count("C")
        said = "test," if number % 3 == 0 else "train,True" if number % 5 == 0 else "train,"
        rows.append(f"{''.join(letters)},{target},{said}")
    (root / "flip").mkdir()
    with zipfile.ZipFile(root / "flip" / "small_splits.zip", "w") as archive:
        archive.writestr("splits/.DS_Store", "x")
        archive.writestr("splits/drawn.csv", "sequence,target,set,validation\n" + "\n".join(rows) + "\n")


def add_split(root: Path, name: str, *, every: int) -> None:
    """Another split in the archive of `flip`: one row of `every`, those to test on and to train on exchanged."""
    exchanged = {"test": "train", "train": "test"}
    with zipfile.ZipFile(root / "flip" / "small_splits.zip", "a") as archive:
        head, *rows = archive.read("splits/drawn.csv").decode().splitlines()
        parts = [row.rsplit(",", 2) for row in rows[::every]]
        kept = [f"{rest},{said if valid else exchanged[said]},{valid}" for rest, said, valid in parts]
        archive.writestr(f"splits/{name}.csv", "\n".join([head, *kept]) + "\n")


def gym(root: Path, *assays: str) -> Path:
    """A reference table and the tables of assays: all single variants of three positions, and one double."""
    folder = root / "proteingym" / "DMS_ProteinGym_substitutions"
    folder.mkdir(parents=True)
    rows = [f"{name},{name}.csv,P{name},Human,{TARGET},Activity,Low,4" for name in (*assays, "absent")]
    (root / "proteingym" / "DMS_substitutions.csv").write_text("\n".join([REFERENCE, *rows]) + "\n")
    names = [
        f"{TARGET[place]}{place + 1}{letter}" for place in (0, 7, 20) for letter in "ACDEW" if letter != TARGET[place]
    ]
    names.append(f"{TARGET[0]}1A:{TARGET[20]}21W")
    for factor, name in enumerate(assays, start=7):
        lines = [f"{mutant},{number * factor % 11},{number % 2}" for number, mutant in enumerate(names)]
        (folder / f"{name}.csv").write_text("\n".join(["mutant,DMS_score,DMS_score_bin", *lines]) + "\n")
    return folder
