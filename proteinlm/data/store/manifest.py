"""What a store says of itself: where its proteins come from, how many there are, and the hashes of its files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from proteinlm.errors import InputError
from proteinlm.storage.atomic import write_text

FILE = "manifest.json"
SCHEMA_VERSION = 1
"""Raised whenever the same sources would give other files; stores of another version are built again."""

_FORMAT = "proteinlm store"


@dataclass(frozen=True)
class SourceFile:
    """The file a split was read from, as it was then."""

    path: str
    """Relative to the root."""
    size: int
    modified: int
    """Nanoseconds since 1970."""
    sha256: str


@dataclass(frozen=True)
class Split:
    """One Arrow file."""

    source: SourceFile
    records: int
    residues: int
    size: int
    sha256: str
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """All splits of all tasks, and the root directory they were built from."""

    root: str
    tasks: dict[str, dict[str, Split]]
    letters: str = "strict"
    """What was done with characters that are no residues (`proteinlm.data.formats.letters`)."""


def write(manifest: Manifest, directory: Path) -> None:
    """Write the manifest of a store that is being built."""
    values = {"format": _FORMAT, "schema_version": SCHEMA_VERSION} | asdict(manifest)
    write_text(directory / FILE, json.dumps(values, indent=1) + "\n")


def read(directory: Path) -> Manifest:
    """The manifest of the store in `directory`; `InputError` if it is not a store of this version."""
    path = directory / FILE
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != _FORMAT:
            raise InputError(f"{directory}: not a store: its {FILE} is of something else")
        if values["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{directory}: a store of version {values['schema_version']}, not {SCHEMA_VERSION}: build it again"
            )
        tasks = {
            task: {name: _split(split) for name, split in splits.items()} for task, splits in values["tasks"].items()
        }
        return Manifest(str(values["root"]), tasks, str(values.get("letters", "strict")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{directory}: not a store: no {FILE} in it") from None
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged: {error!r:.120}") from None


def is_store(directory: Path) -> bool:
    """Whether `directory` holds a store, of whatever version."""
    try:
        return json.loads((directory / FILE).read_bytes())["format"] == _FORMAT
    except (OSError, LookupError, TypeError, ValueError, RecursionError):
        return False


def _split(values: dict) -> Split:
    source = SourceFile(**values["source"])
    return Split(
        source, values["records"], values["residues"], values["size"], values["sha256"], dict(values["columns"])
    )
