"""Measure how much of each test set has a close relative in the pretraining corpus, or among what its task trains on.

``relatives.arrow`` has, for each test protein, the identity of the closest relative that was found in either (0: none), by
task, split and record number: a table can be scored on the proteins without relatives from saved predictions alone.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from proteinlm.data.similarity.search import COVERED, Words
from proteinlm.data.store import Store
from proteinlm.data.store.layout import PRETRAIN
from proteinlm.errors import InputError
from proteinlm.storage.atomic import written_whole

FILE = "relatives.arrow"
THRESHOLDS = (0.9, 0.7, 0.5, 0.3)
CORPUS, TRAINING = "corpus", "train"
TEST = "test"
LEARNT_FROM = ("train", "valid")
"""Of the pretraining corpus nothing but its training split is learnt from, and of a task its own."""
_BLOCK = 1 << 16  # proteins of the corpus read at once

Search = Callable[[Sequence[np.ndarray], Iterable[np.ndarray]], np.ndarray]
"""The identity of the closest target of each query, 0 where none was found."""


class Closest(NamedTuple):
    """Of each protein of a test split, the identity of its closest relative; all nan where there was nothing to search."""

    task: str
    split: str
    corpus: np.ndarray
    train: np.ndarray


def built_in(queries: Sequence[np.ndarray], targets: Iterable[np.ndarray]) -> np.ndarray:
    """By shared words and alignment, see `proteinlm.data.similarity.search`."""
    hits = Words(list(targets)).relatives(queries)
    best = np.zeros(len(queries))
    np.maximum.at(best, hits.query, hits.identity)
    return best


def mmseqs(queries: Sequence[np.ndarray], targets: Iterable[np.ndarray]) -> np.ndarray:
    """By MMseqs2, which finds distant ones too; it must be installed."""
    best = np.zeros(len(queries))
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("queries.fasta", "targets.fasta", "found.tsv")]
        for file, letters in zip(files, (queries, targets), strict=False):
            with file.open("wb") as opened:
                opened.writelines(b">%d\n%s\n" % (n, each.tobytes()) for n, each in enumerate(letters))
        wanted = ["--format-output", "query,fident,qcov,tcov,qlen,tlen", "--min-seq-id", str(THRESHOLDS[-1])]
        command = ["mmseqs", "easy-search", *map(str, files), f"{place}/work", *wanted, "-v", "1"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise InputError(f"mmseqs: exit code {run.returncode}: {(run.stderr or run.stdout).strip()[-200:]!r}")
        with files[2].open() as lines:
            for line in lines:
                query, *numbers = line.split("\t")
                identity, of_query, of_target, query_length, target_length = map(float, numbers)
                if (
                    of_query if query_length <= target_length else of_target
                ) >= COVERED:  # none of its --cov-mode is this
                    best[int(query)] = max(best[int(query)], identity)
    return best


def search(name: str) -> Search:
    """``mmseqs``, ``built-in``, or ``auto``, which is the first if it is installed."""
    if name == "mmseqs" and not shutil.which("mmseqs"):
        raise InputError("--with mmseqs: no mmseqs here (Debian and conda call the package mmseqs2 or mmseqs)")
    return mmseqs if name == "mmseqs" or (name == "auto" and shutil.which("mmseqs")) else built_in


class Labelled(NamedTuple):
    """A file of labelled proteins of its own, as benchmarks are."""

    test: list[np.ndarray]
    train: list[np.ndarray]


def closest(store: Store, by: Search, labelled: Mapping[str, Labelled] | None = None) -> Iterator[Closest]:
    """Every test split, one after the other: those of the store, then those of `labelled`, by name."""
    labelled = labelled or {}
    tests = {
        (task, split): _letters(store, task, split)
        for task in store.tasks
        for split in (store.splits(task) if task != PRETRAIN else ())
        if split not in LEARNT_FROM
    }
    tests |= {(name, TEST): own.test for name, own in labelled.items()}
    if not tests:
        raise InputError(f"{store.directory}: no test split in it")
    there = PRETRAIN in store.tasks and "train" in store.splits(PRETRAIN)
    corpus = _in_corpus(store, tests, by) if there else {}
    for (task, split), letters in tests.items():
        if task in labelled:
            training = labelled[task].train
        else:
            training = _letters(store, task, "train") if "train" in store.splits(task) else []
        nowhere = np.full(len(letters), np.nan)
        in_training = by(letters, training) if training else nowhere
        yield Closest(task, split, corpus.get((task, split), nowhere), in_training)


Tests = dict[tuple[str, str], list[np.ndarray]]
"""The proteins of each test split."""


def _in_corpus(store: Store, tests: Tests, by: Search) -> dict[tuple[str, str], np.ndarray]:
    """The identity of the closest relative of each test protein in the pretraining corpus, which is read once."""
    distinct = {letters.tobytes(): letters for split in tests.values() for letters in split}
    targets = _corpus(store) if by is mmseqs else _near(store, list(distinct.values()))
    best = dict(zip(distinct, by(list(distinct.values()), targets), strict=True))
    return {name: np.array([best[letters.tobytes()] for letters in split]) for name, split in tests.items()}


def _corpus(store: Store) -> Iterator[np.ndarray]:
    sequences = store.sequences(PRETRAIN, "train")
    return (sequences.letters(number) for number in range(len(sequences)))


def _near(store: Store, tests: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The proteins of the corpus that share words with any test protein: no others are proposed to be aligned."""
    words, corpus = Words(tests), _corpus(store)
    while block := list(islice(corpus, _BLOCK)):
        yield from (block[place] for place in words.propose(block))


def _letters(store: Store, task: str, split: str) -> list[np.ndarray]:
    sequences = store.sequences(task, split)
    return [sequences.letters(number) for number in range(len(sequences))]


def shares(found: Closest) -> dict[str, dict[str, float]]:
    """The share of the split that has a relative of so much identity, by where it was found; nan if it was not searched."""
    return {
        name: {
            f"{least:.1f}": float(np.mean(np.where(np.isnan(identity), nan, identity >= least))) for least in THRESHOLDS
        }
        for name, identity in ((CORPUS, found.corpus), (TRAINING, found.train))
    }


def save(file: Path, found: list[Closest], data: Mapping[str, str]) -> None:
    """Write `FILE`; `data` is the fingerprint of each task's records."""
    tables = [
        pa.table(
            {
                "task": [each.task] * len(each.corpus),
                "split": [each.split] * len(each.corpus),
                "record": np.arange(len(each.corpus)),
                CORPUS: each.corpus,
                TRAINING: each.train,
            }
        )
        for each in found
    ]
    whole = pa.concat_tables(tables).replace_schema_metadata(dict(data))
    with written_whole(file) as opened, pa.ipc.new_file(opened, whole.schema) as writer:
        writer.write_table(whole)


class Relatives(NamedTuple):
    """What `save` wrote."""

    closest: dict[tuple[str, str], np.ndarray]
    """The identity of each test protein's closest relative anywhere, by task and split, in order of the record."""
    data: dict[str, str]
    """The fingerprint of each task's records."""
    unsearched: list[str]
    """`CORPUS` or `TRAINING`, if there was none for some task."""


def load(file: Path) -> Relatives:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        data = {name.decode(): sum_.decode() for name, sum_ in (table.schema.metadata or {}).items()}
        columns = {name: table[name].to_numpy() for name in ("record", CORPUS, TRAINING)}
        names = list(zip(table["task"].to_pylist(), table["split"].to_pylist(), strict=True))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise InputError(f"{file}: not what `proteinlm data leakage` wrote: {error}") from None
    unsearched = [name for name in (CORPUS, TRAINING) if np.isnan(columns[name]).any()]
    identity = np.fmax(np.fmax(columns[CORPUS], columns[TRAINING]), 0.0)
    places: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    closest = {name: identity[of][np.argsort(columns["record"][of])] for name, of in places.items()}
    return Relatives(closest, data, unsearched)
