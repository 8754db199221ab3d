"""Where the data of each task lie under a root directory, as TAPE published them or as FASTA."""

import re
from pathlib import Path
from typing import NamedTuple

from proteinlm.errors import InputError

PRETRAIN = "pretrain"
TASKS = (PRETRAIN, "secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability")

_COMPRESSED = r"(?:\.gz|\.xz)?"
_KINDS = {
    "lmdb": r"\.lmdb",
    "json": rf"\.json{_COMPRESSED}",
    "fasta": rf"\.(?:fasta|fa|faa){_COMPRESSED}",
    "proteinnet": rf"\.(?:txt|proteinnet){_COMPRESSED}",
}


class Source(NamedTuple):
    """The file, or LMDB directory, that holds one split of one task."""

    task: str
    split: str
    path: Path
    kind: str
    """``lmdb``, ``json``, ``fasta`` or ``proteinnet``."""


def find(root: Path) -> list[Source]:
    """All splits under `root`, in the order of `TASKS` and then by name.

    Looks for ``<task>_<split>.{lmdb,json,json.gz,json.xz}`` in ``tape/<task>``, ``<task>`` and `root` itself. For
    pretraining, ``pretrain_<split>.fasta[.gz|.xz]`` will do too, and TAPE's ``pfam`` is the same task; for proteinnet,
    ProteinNet's own text as ``proteinnet_<split>.txt[.gz|.xz]``. `InputError` if there is nothing, or two for one
    split.
    """
    if not root.is_dir():
        raise InputError(f"{root}: {'not a directory' if root.exists() else 'no such directory'}")
    found: dict[tuple[str, str], Source] = {}
    for task in TASKS:
        for source in sorted(_of_task(root, task)):
            other = found.setdefault((source.task, source.split), source)
            if other is not source:
                raise InputError(f"{other.path} and {source.path}: two files for the {source.split} split of {task}")
    if not found:
        raise InputError(
            f"{root}: no data in it: neither pretrain/pretrain_<split>.fasta[.gz|.xz] nor pfam/pfam_<split>.lmdb "
            "nor tape/<task>/<task>_<split>.json[.gz] nor <task>/<task>_<split>.lmdb"
        )
    return list(found.values())


def _of_task(root: Path, task: str) -> list[Source]:
    kinds = {"lmdb", "json", "fasta" if task == PRETRAIN else "", "proteinnet" if task == "proteinnet" else ""}
    sources = []
    for name in (PRETRAIN, "pfam") if task == PRETRAIN else (task,):
        for directory in (root / "tape" / name, root / name, root):
            for path in directory.iterdir() if directory.is_dir() else ():
                for kind in kinds & _KINDS.keys():
                    if match := re.fullmatch(rf"{name}_(\w+){_KINDS[kind]}", path.name):
                        sources.append(Source(task, match[1], path, kind))
    return sources
