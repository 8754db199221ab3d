"""What a reader of proteins does with characters that are no residues: stops, gaps, insert states and other letters.

``strict`` refuses them. ``clean`` drops three kinds: stops (``*``) at the end of a protein, as gene finders write them;
gaps (``-`` and ``.``); and insert states, which are the lower-case letters of an alignment. A file is an alignment if its
name ends in .a3m or .a2m, perhaps with .gz or .xz behind it. Elsewhere a lower-case letter is a residue, often one of low
complexity. ``unknown`` drops the same and takes every other letter as [UNK], also a stop inside a protein.
"""

from collections import Counter
from pathlib import Path
from typing import final

import numpy as np

from proteinlm import vocabulary
from proteinlm.config.checks import one_of
from proteinlm.config.data import LETTERS
from proteinlm.errors import InputError

STRICT, CLEAN, UNKNOWN = LETTERS
RESIDUE, BLANK, OTHER, STOP, GAP, INSERT = range(6)
"""Kinds of characters."""
_BLANKS, _GAPS, _STOP = b" \t\r\n", b"-.", b"*"
_UPPER = 0xDF  # clears the bit in which ASCII letters differ by case
_ALIGNMENTS = {".a3m", ".a2m"}


def is_alignment(path: Path) -> bool:
    """Whether lower-case letters of the file are insert states, by its name."""
    return bool(_ALIGNMENTS & set(path.suffixes[-2:]))


@final
class Letters:
    """One choice of `LETTERS`, and what it has dropped and replaced so far.

    Make one for each file: `summary` then says what was done to the file. Readers that take a `Letters` (`read_fasta`,
    `convert`) work on whole blocks; `clean` does the same to one sequence.
    """

    def __init__(self, choice: str = STRICT) -> None:
        one_of("letters", choice, LETTERS)
        self.choice = choice
        self.stops = self.gaps = self.inserts = 0
        self.unknown: Counter[str] = Counter()
        """How often each letter became [UNK]."""

    def clean(self, sequence: str, *, aligned: bool = False) -> str:
        """The residues of one sequence in capitals, with `vocabulary.UNKNOWN_LETTER` for [UNK].

        Lower-case letters of an `aligned` sequence are insert states. Blanks are dropped unless the choice is strict.
        `InputError` for a sequence without residues, and for a letter that the choice does not allow: with its position
        among the residues, counted from 1.
        """
        raw = sequence.encode("latin-1", "replace")
        kinds = np.frombuffer(bytearray(raw.translate(self.kinds(aligned))), np.uint8)
        if self.choice == STRICT:
            kinds[kinds == BLANK] = OTHER
        self.decide(kinds, np.zeros(1, np.int64))
        is_other = kinds == OTHER
        if is_other.any() and self.choice != UNKNOWN:
            place = int(is_other.argmax())
            raise InputError(self.refusal(sequence[place], int((kinds[:place] == RESIDUE).sum())))
        residues = self.take(np.frombuffer(raw, np.uint8), kinds)
        if not len(residues):
            raise InputError("a sequence without residues")
        return residues.tobytes().decode("ascii")

    def kinds(self, aligned: bool) -> bytes:
        """The kind of each of the 256 bytes; a table for ``bytes.translate``."""
        table = bytearray([OTHER]) * 256
        for letter in vocabulary.RESIDUES.encode():
            table[letter] = RESIDUE
            table[letter | 0x20] = INSERT if aligned and self.choice != STRICT else RESIDUE
        for blank in _BLANKS:
            table[blank] = BLANK
        if self.choice != STRICT:
            for gap in _GAPS:
                table[gap] = GAP
            table[_STOP[0]] = STOP
        return bytes(table)

    def decide(self, kinds: np.ndarray, starts: np.ndarray) -> None:
        """Turn the stops inside proteins into `OTHER`, in `kinds` (bytes,) of records that begin at `starts` (N,)."""
        stops = np.flatnonzero(kinds == STOP)
        if len(stops):
            is_inside = (kinds == RESIDUE) | (kinds == OTHER)
            last = np.maximum.reduceat(np.where(is_inside, np.arange(len(kinds)), -1), starts)
            inside = stops < last[np.searchsorted(starts, stops, side="right") - 1]
            kinds[stops[inside]] = OTHER

    def take(self, text: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """The residues (R,) uint8 among the bytes `text`, in capitals, after `decide`; counts what is not taken."""
        is_residue = kinds == RESIDUE
        if self.choice == STRICT:
            return text[is_residue] & _UPPER
        counts = np.bincount(kinds, minlength=INSERT + 1)
        self.stops, self.gaps = self.stops + int(counts[STOP]), self.gaps + int(counts[GAP])
        self.inserts += int(counts[INSERT])
        if not counts[OTHER]:
            return text[is_residue] & _UPPER
        is_other = kinds == OTHER
        for byte, count in enumerate(np.bincount(text[is_other])):
            if count:
                self.unknown[chr(byte).upper()] += int(count)
        capitals = np.where(is_other, ord(vocabulary.UNKNOWN_LETTER), text & _UPPER)
        return capitals[is_residue | is_other].astype(np.uint8)

    def refusal(self, letter: str, residues: int) -> str:
        """Why a letter is refused that comes after so many `residues` of its protein."""
        message = f"letter {letter!r} at position {residues + 1} is not one of {vocabulary.RESIDUES}"
        if self.choice == STRICT and letter in "*-.":
            aligned = "; `contacts` and `score` take an alignment by --alignment" if letter in "-." else ""
            return f"{message}; letters={CLEAN} drops gaps and a stop at the end{aligned}"
        return f"{message}; letters={UNKNOWN} takes it as [UNK]"

    def summary(self) -> str:
        """What was dropped and replaced, in one line; nothing if nothing was."""
        counts = {"stops at the end": self.stops, "gaps": self.gaps, "insert states": self.inserts}
        dropped = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        often = ", ".join(f"{letter!r} {count:,} times" for letter, count in self.unknown.most_common(5))
        parts = [f"dropped {dropped}"] if dropped else []
        if often:
            parts.append(f"took {self.unknown.total():,} letters as [UNK] ({often})")
        return f"letters={self.choice}: {'; '.join(parts)}" if parts else ""
