"""Where proteins come from."""

from dataclasses import dataclass

from omegaconf import MISSING

from proteinlm.config.checks import above, at_least, one_of
from proteinlm.errors import InputError

LETTERS = ("strict", "clean", "unknown")
"""Choices for characters that are no residues (`proteinlm.data.formats.letters`)."""


@dataclass
class DataConfig:
    """Where proteins come from; each source has a subclass."""

    name: str = MISSING


@dataclass
class SyntheticDataConfig(DataConfig):
    """The embedded default: a made-up protein universe (`proteinlm.data.synthetic`)."""

    name: str = "synthetic"
    seed: int = 0
    """Of the universe: another seed, other proteins."""
    folds: int = 100
    """Arrangements of strands and helices; a fifth of them never occur in the training corpus."""
    superfamilies: int = 4
    """Of each fold; the last is held out."""
    families: int = 4
    """Of each superfamily; the last is held out."""
    members: int = 24
    """Sequences of each family in the training corpus."""
    labelled: float = 1.0
    """Scale of the labelled sets (`proteinlm.data.synthetic.SIZES`)."""

    def __post_init__(self) -> None:
        for knob, lowest in (("seed", 0), ("folds", 5), ("superfamilies", 2), ("families", 2), ("members", 1)):
            at_least(lowest, f"data.{knob}", getattr(self, knob))
        if self.folds > 300:
            raise InputError(f"data.folds={self.folds} is more than 300: there are not many more arrangements")
        above(0, "data.labelled", self.labelled, highest=10)


@dataclass
class FilesDataConfig(DataConfig):
    """Real proteins: a directory as published, or a store made of it (`proteinlm.data.store`)."""

    name: str = "files"
    root: str = MISSING
    """Holds TAPE's directories, or ``pretrain/pretrain_{train,valid,holdout}.fasta[.gz|.xz]``, all three, or both."""
    cache: str = ""
    """Where the store is built on first use; by default ``$PROTEINLM_CACHE``, or ``~/.cache/proteinlm``."""
    letters: str = "strict"
    """``strict`` refuses characters that are no residues. ``clean`` drops gaps, insert states of an alignment, and a stop at
    the end. ``unknown`` drops the same and takes all others as [UNK]."""

    def __post_init__(self) -> None:
        one_of("data.letters", self.letters, LETTERS)


@dataclass
class CsvDataConfig(DataConfig):
    """A user's own proteins and labels, for ``task=custom``: one CSV file (``.tsv``: tabs; .gz and .xz are read too)."""

    name: str = "csv"
    csv: str = ""
    """The file. Its first line names the columns."""
    sequence: str = "sequence"
    """Column of the residues."""
    label: str = "label"
    """Column of what is learnt: a class, a number, or a letter for each residue (``?``: not known)."""
    split: str = "split"
    """Column that says ``train``, ``valid`` or ``test``. If the file has no column ``split``, or this is empty, clusters of
    similar sequences are drawn; a column of another name must be there."""
    id: str = "id"
    """Column of names, for messages; it may be absent."""
    letters: str = "strict"
    """As in `FilesDataConfig`."""
    valid: float = 0.1
    """Share of the proteins drawn for validation, where there is no split column."""
    test: float = 0.1
    """Share of the proteins drawn for the test."""
    identity: float = 0.5
    """Proteins above about this sequence identity stay in one split (`data.similarity.clusters`); 1: only equal ones."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        if not self.csv:
            raise InputError("data.csv is empty: name the file with your sequences and labels")
        at_least(0, "data.seed", self.seed)
        one_of("data.letters", self.letters, LETTERS)
        above(0, "data.valid", self.valid)
        at_least(0, "data.test", self.test)
        if self.valid + self.test >= 1:
            raise InputError(f"data.valid={self.valid} and data.test={self.test} leave none to train on")
        if not 0.2 <= self.identity <= 1:
            raise InputError(f"data.identity={self.identity} is not between 0.2 and 1")
