"""The records of a stage: ``result.json``, ``config.yaml`` and ``stamp.json``. Needs neither torch nor a log file.

Tables and figures are made from these records alone.
"""

import hashlib
import json
import math
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from proteinlm.config import StageConfig
from proteinlm.errors import InputError
from proteinlm.records.run_directory import CONFIG, RESULT, STAMP
from proteinlm.storage.atomic import write_text
from proteinlm.storage.untrusted import read_json, read_yaml

ROOT = Path(__file__).parents[2]
RETIRED = ("mfu",)
"""Fields of earlier versions, which are dropped from an old record."""
_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "pyarrow", "hydra-core", "proteinlm")


@dataclass(frozen=True)
class Score:
    """One number of one split, with its 95 % bootstrap interval over the split's `n` proteins.

    The value is nan where the score is undefined, such as a correlation with labels that are all equal; the file has null.
    """

    task: str
    split: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int

    def text(self, digits: int = 3) -> str:
        """The value for a reader."""
        return "undefined" if math.isnan(self.value) else f"{self.value:.{digits}f}"

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Score":
        """A score from its fields in ``result.json``."""
        if values["value"] is None:
            values = {**values, "value": math.nan}
        return cls(**values)


@dataclass(frozen=True)
class Result:
    """The scores of one stage of one row, and all that is needed to judge them."""

    row: str
    stage: str
    scores: list[Score]
    hidden_size: int
    num_layers: int
    num_heads: int
    scale: dict[str, int]
    """Divisors that made this shape from the row's full one."""
    parameters: int
    seed: int
    steps: int
    tokens: int
    residues: int
    epochs: float
    cropped: int
    """Proteins longer than the positions that gave a crop."""
    flops: float
    """Of training, by the formula of the backbone's family; a task's head is not counted."""
    seconds: float
    """Training time over all attempts, without start-up."""
    precision: str
    processes: int
    threads: int
    hardware: str
    versions: dict[str, str]
    commit: str
    source: str
    config: str
    data: str
    seeds: int = 1
    """Runs that the scores are means of: `seed`, `seed` + 1, ...; steps to seconds are sums over them, epochs the mean."""
    start: str = "scratch"
    """Fingerprint of the weights that were fine-tuned."""
    accelerator: str = "cpu"
    family: str = "proteinlm"
    """Of the backbone: ``proteinlm``, one of `proteinlm.config.baselines.FAMILIES`, or a model type of Hugging Face."""
    trained: int | None = None
    """Parameters that were trained, where it is not all; with an adapter, its own are among them."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite, and that changed nothing."""
    deterministic: bool = False
    """Whether only algorithms were admitted that give the same bits each time."""
    predictions: str = ""
    """SHA-256 of the file that the scores were computed from."""

    @property
    def device_seconds(self) -> float:
        """Time of all GPUs, or of all CPU cores that computed."""
        return self.seconds * self.processes * (self.threads if self.accelerator == "cpu" else 1)

    def save(self, directory: Path) -> None:
        values = asdict(self)
        for score in values["scores"]:
            if math.isnan(score["value"]):
                score["value"] = None  # JSON has no nan
        write_text(directory / RESULT, json.dumps(values, indent=2) + "\n")

    def score(self, task: str, split: str, metric: str) -> Score | None:
        return next((s for s in self.scores if (s.task, s.split, s.metric) == (task, split, metric)), None)


def load(file: Path) -> Result:
    """Read one ``result.json``."""
    try:
        values = {name: value for name, value in read_json(file).items() if name not in RETIRED}
        return Result(**{**values, "scores": [Score.read(score) for score in values["scores"]]})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: not a result record of this version ({error})") from None


def load_all(directory: Path) -> list[Result]:
    """Every result below `directory`."""
    return [load(file) for file in sorted(directory.rglob(RESULT))]


def claim(directory: Path, config: StageConfig, **inputs: str) -> None:
    """Make `directory` the home of `config` and of the `inputs` with these fingerprints, or refuse if it is another's."""
    file, wanted = directory / CONFIG, asdict(config) | {"inputs": inputs}
    if file.exists():
        known = read_yaml(file)
        difference = _difference(known, wanted, config.IRRELEVANT)
        if difference:
            raise InputError(
                f"{directory} belongs to another config ({difference}): choose another name or group, or remove it"
            )
    write_text(file, OmegaConf.to_yaml(OmegaConf.create(wanted)))


def write_stamp(directory: Path, **facts: str | int) -> None:
    """Record what ran here and on what, for each attempt of the stage."""
    file = directory / STAMP
    attempts = json.loads(file.read_text()) if file.exists() else []
    attempts.append({"command": sys.argv, "host": platform.node(), **asdict(provenance()), **facts})
    write_text(file, json.dumps(attempts, indent=2) + "\n")


@dataclass(frozen=True)
class Provenance:
    """Which code a process runs: commit, fingerprint of the files themselves, and package versions."""

    commit: str
    source: str
    versions: dict[str, str]


@cache
def provenance() -> Provenance:
    return Provenance(_commit(), _source(), {name: version(name) for name in _PACKAGES})


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _source() -> str:
    """Fingerprint of the code that computes results, committed or not."""
    files = [file for folder in ("proteinlm", "experiments") for file in sorted((ROOT / folder).rglob("*.py"))]
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return whole.hexdigest()[:12]


def _difference(known: object, wanted: object, irrelevant: frozenset[str], knob: str = "") -> str | None:
    """The first knob in which two nested values differ, or None."""
    if knob in irrelevant:
        return None
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in [*known, *(wanted.keys() - known.keys())]:
            inner = f"{knob}.{key}" if knob else str(key)
            if found := _difference(known.get(key), wanted.get(key), irrelevant, inner):
                return found
        return None
    return None if known == wanted else f"{knob} is {known} there and {wanted} here"
