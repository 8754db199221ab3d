"""Reading a store: its splits as Arrow tables, letters and records, memory-mapped."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from proteinlm.config import digest
from proteinlm.data.store import manifest
from proteinlm.data.store.layout import PRETRAIN
from proteinlm.data.store.manifest import Manifest, Split
from proteinlm.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from proteinlm.data.store.sequences import Sequences


@final
class Store:
    """The splits of some tasks: ``pretrain`` and TAPE's five."""

    def __init__(self, directory: Path, content: Manifest) -> None:
        self.directory, self.manifest = directory, content

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.manifest.tasks)

    def splits(self, task: str) -> dict[str, Split]:
        """What the manifest says of each split of `task`; `InputError` if it has none."""
        if task not in self.manifest.tasks:
            raise InputError(
                f"{self.directory}: no {task} in it, only {', '.join(self.tasks)} (from {self.manifest.root})"
            )
        return self.manifest.tasks[task]

    def split(self, task: str, split: str) -> Split:
        """What the manifest says of one split; `InputError` if it is not there."""
        splits = self.splits(task)
        if split not in splits:
            raise InputError(
                f"{self.directory}: no {split} split of {task}, only {', '.join(splits)} (from {self.manifest.root})"
            )
        return splits[split]

    def path(self, task: str, split: str) -> Path:
        """The Arrow file of a split, which must be there."""
        self.split(task, split)
        return file_of(self.directory, task, split)

    def table(self, task: str, split: str) -> "pa.Table":
        """The whole split, memory-mapped: costs no memory until it is read."""
        return _reader(self.path(task, split)).read_all()

    def sequences(self, task: str = PRETRAIN, split: str = "train") -> "Sequences":
        """The residues of a split, memory-mapped."""
        from proteinlm.data.store.columns import sequence_column
        from proteinlm.data.store.sequences import Sequences

        column = sequence_column(task)
        return Sequences(self.table(task, split)[column], (self.path(task, split), column))

    def records(self, task: str, split: str) -> Iterator[dict[str, Any]]:
        """The records by TAPE's field names, in order: text, Python numbers, and numpy arrays in TAPE's types and
        shapes.

        A field that the source does not have for a protein is left out. The arrays are views, not to be written to.
        """
        from proteinlm.data.store.columns import to_records

        reader = _reader(self.path(task, split))
        for index in range(reader.num_record_batches):
            yield from to_records(reader.get_batch(index))

    def fingerprint(self, task: str) -> str:
        """Twelve hexadecimal digits that identify all proteins and labels of `task`."""
        return digest({name: split.sha256 for name, split in self.splits(task).items()})


def open(directory: Path) -> Store:
    """Open a store; `InputError` if it is none, of another version, or if a file is missing or has the wrong size."""
    store = Store(directory, manifest.read(directory))
    for task, splits in store.manifest.tasks.items():
        for name, split in splits.items():
            path = file_of(directory, task, name)
            if not path.is_file():
                raise InputError(f"{path}: missing, though the manifest lists it: build the store again")
            if path.stat().st_size != split.size:
                raise InputError(
                    f"{path}: {path.stat().st_size} bytes, not the manifest's {split.size}: build the store again"
                )
    return store


def file_of(directory: Path, task: str, split: str) -> Path:
    """Where a store keeps a split."""
    return directory / task / f"{split}.arrow"


def _reader(path: Path) -> "pa.ipc.RecordBatchFileReader":
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not an Arrow file: {error}") from None
