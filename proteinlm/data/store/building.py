"""Building a store beside its place and moving it there, and checking one against its manifest."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from proteinlm.data.formats.letters import STRICT, Letters
from proteinlm.data.formats.tape import lmdb_file
from proteinlm.data.progress import Bar
from proteinlm.data.store import layout, manifest, reader
from proteinlm.data.store.layout import Source
from proteinlm.data.store.manifest import Manifest, SourceFile, Split
from proteinlm.data.store.reader import Store
from proteinlm.errors import InputError
from proteinlm.storage.atomic import locked

_log = logging.getLogger(__name__)


def ensure(root: Path, cache: Path, letters: str = STRICT) -> Store:
    """The store of the data under `root`, built into `cache` on first use and whenever a source's size or time changed.

    `root` is a directory as `layout.find` reads it, or a store. Any number of processes may call this at once: one
    builds, the others wait. Each choice of `letters` has a store of its own. `InputError` if `root` is a store that was
    built with another choice, unless that was strict: it then holds nothing to be cleaned.
    """
    if manifest.is_store(root):
        store = reader.open(root)
        if store.manifest.letters not in (STRICT, letters):
            raise InputError(f"{root}: a store built with letters={store.manifest.letters}, not {letters}")
        return store
    target = place(root, cache, letters)
    build(root, target, letters)
    return reader.open(target)


def place(root: Path, cache: Path, letters: str = STRICT) -> Path:
    """The directory in `cache` for the store of `root`."""
    absolute = root.resolve()
    name = f"{absolute.name or 'root'}-{hashlib.sha256(str(absolute).encode()).hexdigest()[:12]}"
    return cache.absolute() / (name if letters == STRICT else f"{name}-{letters}")


def build(root: Path, target: Path, letters: str = STRICT) -> None:
    """Make `target` the store of the data under `root`; nothing is done if it already is.

    `letters` says what is done with characters that are no residues; what is dropped is logged in a line for each file.

    It appears whole or not at all, whatever happens. Splits whose source did not change are taken over from what is
    there. `InputError` for whatever is wrong with the data, a full disk, and a target that is something else than a
    store.
    """
    sources = layout.find(root)
    if _is_current(target, root, sources, letters):
        return
    if target.exists() and not manifest.is_store(target) and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists and is not a store, so it is not replaced")
    try:
        lock = target.with_name(f".{target.name}.lock")
        with locked(lock, lambda: _log.warning("waiting for another process that builds %s", target)):
            if not _is_current(target, root, sources, letters):  # nobody else built it in the meantime
                _build(root, target, sources, letters)
    except OSError as error:
        raise InputError(f"{error.filename or target}: {error.strerror or error}; {target} is as it was") from error


def _build(root: Path, target: Path, sources: list[Source], letters: str) -> None:
    partial, replaced = target.with_name(f".{target.name}.building"), target.with_name(f".{target.name}.replaced")
    try:
        _tidy(partial, replaced, target)  # after a process that was killed
        tasks: dict[str, dict[str, Split]] = {}
        before = _splits(target, letters)
        with Bar("reading proteins", sum(_file(source).stat().st_size for source in sources)) as bar:
            for source in sources:
                _log.info("%s -> %s", source.path, reader.file_of(target, source.task, source.split))
                path = reader.file_of(partial, source.task, source.split)
                path.parent.mkdir(parents=True, exist_ok=True)
                known = before.get((source.task, source.split))
                split = _taken_over(source, root, known, target, path) or _converted(source, root, path, bar, letters)
                tasks.setdefault(source.task, {})[source.split] = split
        manifest.write(Manifest(str(root.resolve()), tasks, letters), partial)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    finally:
        _tidy(partial, replaced, target)


def _tidy(partial: Path, replaced: Path, target: Path) -> None:
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)


def _converted(source: Source, root: Path, path: Path, bar: Bar, choice: str) -> Split:
    from proteinlm.data.store.convert import convert

    before = _seen(source, root)
    letters = Letters(choice)
    done = convert(source, path, bar.advance, letters)
    if _seen(source, root) != before:
        raise InputError(f"{source.path}: changed while it was read")
    if summary := letters.summary():
        _log.warning("%s: %s", source.path, summary)
    origin = SourceFile(*before, done.source_sha256)
    return Split(origin, done.records, done.residues, done.size, done.sha256, done.columns)


def _taken_over(source: Source, root: Path, known: Split | None, target: Path, path: Path) -> Split | None:
    """The split of the store that is replaced, if its source is the same."""
    old = reader.file_of(target, source.task, source.split)
    if known is None or not _is_same(known, _seen(source, root), old):
        return None
    try:
        os.link(old, path)
    except OSError:
        shutil.copyfile(old, path)
    return known


class _Seen(NamedTuple):
    """What of a source can be compared without reading it."""

    path: str
    size: int
    modified: int


def _seen(source: Source, root: Path) -> _Seen:
    status = _file(source).stat()
    return _Seen(source.path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)


def _file(source: Source) -> Path:
    return lmdb_file(source.path) if source.kind == "lmdb" else source.path


def _is_same(split: Split, seen: _Seen, file: Path) -> bool:
    known = _Seen(split.source.path, split.source.size, split.source.modified)
    return known == seen and file.is_file() and file.stat().st_size == split.size


def _is_current(target: Path, root: Path, sources: list[Source], letters: str) -> bool:
    splits = _splits(target, letters)
    return splits.keys() == {(source.task, source.split) for source in sources} and all(
        _is_same(
            splits[source.task, source.split],
            _seen(source, root),
            reader.file_of(target, source.task, source.split),
        )
        for source in sources
    )


def _splits(target: Path, letters: str = "") -> dict[tuple[str, str], Split]:
    """The splits of the store at `target`, by task and name; none if there is no usable store, or of other `letters`."""
    try:
        content = manifest.read(target)
    except InputError:
        return {}
    if letters and content.letters != letters:
        return {}
    return {(task, name): split for task, splits in content.tasks.items() for name, split in splits.items()}


class Checked(NamedTuple):
    """A split whose file is as the manifest says."""

    task: str
    split: str
    records: int
    source_is_there: bool
    """Whether the source could be compared too; it may have been deleted."""


def check(directory: Path) -> Iterator[Checked]:
    """Compare every byte of a store, and of its sources where they still are, with the manifest.

    `InputError` at the first difference, naming the file.
    """
    content = reader.open(directory)
    splits = _splits(directory)
    with Bar("checking", sum(split.size + split.source.size for split in splits.values())) as bar:
        for (task, name), split in splits.items():
            path = content.path(task, name)
            _compare(path, split.sha256, bar)
            rows = content.table(task, name).num_rows
            if rows != split.records:
                raise InputError(f"{path}: {rows} records, not the manifest's {split.records}")
            source = Path(content.manifest.root) / split.source.path
            source = lmdb_file(source) if source.is_dir() else source
            if source.is_file():
                _compare(source, split.source.sha256, bar)
            yield Checked(task, name, rows, source.is_file())


def _compare(path: Path, expected: str, bar: Bar) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            bar.advance(len(chunk))
    if digest.hexdigest() != expected:
        raise InputError(f"{path}: its bytes do not match the manifest: sha256 {digest.hexdigest()}, not {expected}")
