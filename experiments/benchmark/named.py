"""The named benchmarks, as ``flip/gb1``, ``pbc/disorder`` and ``tape/stability``: the proteins of each of their splits."""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from experiments.benchmark.tape import read_tape
from proteinlm.config import CsvDataConfig, CustomTaskConfig
from proteinlm.data.csv_labels import LabelledRows, read_rows
from proteinlm.data.formats.biotrainer import MASK, SEQUENCES
from proteinlm.errors import InputError

FLIP, PBC, TAPE = "flip/", "pbc/", "tape/"
WILDTYPES = {
    "flip/gb1": "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTELEVLFQGPLDPNSMATYEVLCEVARKLGTDDREVVLFLLNVFIPQPTL"
    "AQLIGALRALKEEGRLTFPLLAECLFRAGRRDLLRDLLHLDPRFLERHLAGTMSYFSPYQLTVLHVDGELCARDIRSLIFLSKDTIGSRSTPQTFLHWVYCMENLDLLGPTDVDAL"
    "MSMLRSLSRVDLQRQVQTLMGLHLSGPSHSQHYRHTPLEHHHHHH"
}
"""The protein whose variants a benchmark has (PDB 5LDE)."""
LARGEST = 1 << 30
"""Bytes that an archive of splits may unpack to."""


class Benchmark(NamedTuple):
    """One benchmark, all of its splits."""

    name: str
    splits: dict[str, LabelledRows]
    """By name, each with the proteins to train on, for validation, and to test on."""
    wildtype: str
    """Empty where the proteins are no variants of one."""


def open_benchmark(root: Path, name: str, split: str = "") -> Benchmark:
    """Read a benchmark below the directory `root`, all of its splits or one.

    FLIP's are in ``flip/NAME_splits.zip``, as published, or unpacked in ``flip/NAME_splits/splits``. PBC's are in
    ``pbc/NAME.fasta``, perhaps with .gz; for TAPE's see `read_tape`. Raises `InputError` for what is not there or cannot
    be read.
    """
    if name.startswith(TAPE):
        return Benchmark(name, read_tape(root, name.removeprefix(TAPE), split), "")
    with _files(root, name) as files:
        if split and split not in files:
            raise InputError(f"split={split} is not one of {', '.join(sorted(files))} ({name})")
        chosen = {split: files[split]} if split else files
        splits = {
            each: read_rows(CsvDataConfig(csv=str(file)), CustomTaskConfig()) for each, file in sorted(chosen.items())
        }
    return Benchmark(name, splits, WILDTYPES.get(name, ""))


@contextmanager
def _files(root: Path, name: str) -> Iterator[dict[str, Path]]:
    """The file of each split."""
    if name.startswith(PBC):
        stem = name.removeprefix(PBC)
        file = next(
            (root / "pbc" / f"{stem}.fasta{end}" for end in ("", ".gz", ".xz") if _is_pbc(root, stem, end)), None
        )
        if file is None:
            parts = [] if "/" in stem else sorted(each.name for each in (root / "pbc").glob(f"{stem}_*.fasta*"))
            how = f"{name} is published so"
            if parts:
                how = f"{', '.join(parts)} are parts of it: join all, that to train on too, with TARGET= and SET= in headers"
            raise InputError(f"{root / 'pbc' / stem}.fasta: not there, nor with .gz: {how}")
        yield {"published": file}
        return
    if not name.startswith(FLIP):
        raise InputError(
            f"{name} is not flip/NAME, pbc/NAME or tape/NAME, as in flip/gb1, pbc/disorder, tape/stability"
        )
    stem = f"{name.removeprefix(FLIP)}_splits"
    folder, archive = root / "flip" / stem / "splits", root / "flip" / f"{stem}.zip"
    if folder.is_dir():
        yield _by_split(sorted(folder.iterdir()))
        return
    if not archive.is_file():
        raise InputError(f"{archive}: not there, nor unpacked in {folder}: {name} is published so")
    with tempfile.TemporaryDirectory() as place:
        yield _by_split(_unpack(archive, Path(place) / archive.name))


def _is_pbc(root: Path, stem: str, end: str) -> bool:
    return "/" not in stem and (root / "pbc" / f"{stem}.fasta{end}").is_file()


def _by_split(files: list[Path]) -> dict[str, Path]:
    """The files by the name of their split; of one that is there twice, the CSV, whose numbers have more digits."""
    own = [file for file in files if file.name not in (SEQUENCES, MASK) and file.suffix in (".csv", ".fasta")]
    return {file.stem: file for file in sorted(own, key=lambda file: file.suffix, reverse=True)}


def _unpack(archive: Path, directory: Path) -> list[Path]:
    """The CSV and FASTA files of an archive, in a new directory by their names alone."""
    directory.mkdir()
    left, written = LARGEST, []
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                name = PurePosixPath(member.filename).name
                if not name.endswith((".csv", ".fasta")) or name.startswith("."):
                    continue
                left -= member.file_size
                if left < 0:
                    raise InputError(f"{archive}: unpacks to more than {LARGEST} bytes")
                with content.open(member) as source:
                    (directory / name).write_bytes(source.read(member.file_size))
                written.append(directory / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise InputError(f"{archive}: damaged: {error}") from None
    return written
