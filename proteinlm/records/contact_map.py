"""The contact map of one protein, as it is and as a fine-tuned head sees it, saved beside the scores. Needs no torch.

L residues of the protein.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteinlm.errors import InputError
from proteinlm.records.run_directory import CONTACT_MAP
from proteinlm.storage.atomic import written_whole

PAPER = ("T0889", "5JO9")
"""The protein of the paper's Figures 6 to 8: its CASP12 target, and the PDB entry of that structure."""
SEPARATIONS = SHORT, MEDIUM, LONG = 6, 12, 24
"""Least separations along the sequence of the pairs from short, medium and long range on; nearer residues always touch."""


@dataclass(frozen=True)
class ContactMap:
    """What is drawn of one protein of the test split."""

    name: str
    """Its identifier in the data; empty if it has none."""
    record: int
    """Its record number in the test split."""
    seed: int
    """The fine-tuning seed whose head drew the map."""
    logits: np.ndarray
    """Of a contact, symmetric, (L, L) float32."""
    contacts: np.ndarray
    """(L, L) bool."""
    resolved: np.ndarray
    """Residues with coordinates, (L,) bool."""

    @property
    def length(self) -> int:
        return len(self.resolved)

    @property
    def of_paper(self) -> bool:
        """Whether it is the protein that the paper draws."""
        return any(mark in self.name.upper() for mark in PAPER)

    @property
    def probabilities(self) -> np.ndarray:
        """(L, L) float64."""
        return 1 / (1 + np.exp(-self.logits.astype(np.float64)))

    def picture(self, smallest: int = 400) -> np.ndarray:
        """Grey values (H, H) uint8, dark where residues touch: below the diagonal in truth, above as the head sees it."""
        lower = np.tri(self.length, dtype=bool)
        shade = np.where(lower, self.contacts, self.probabilities)
        grey = (255 * (1 - np.clip(shade, 0, 1))).astype(np.uint8)
        times = -(-smallest // self.length)
        return grey.repeat(times, axis=0).repeat(times, axis=1)

    def best(self, separation: int, n: int = 1) -> np.ndarray:
        """The ``max(1, resolved // n)`` most confident pairs i < j at least `separation` apart, (P, 2); ties by (i, j)."""
        return most_confident(self.logits, self.resolved, separation, n)

    def precision(self, separation: int, n: int = 1) -> float:
        """P@L/n: the share of `best` that touch, as in `tasks.metrics.ContactPrecision`; nan without such pairs."""
        pairs = self.best(separation, n)
        return float(self.contacts[pairs[:, 0], pairs[:, 1]].mean()) if len(pairs) else float("nan")


def most_confident(scores: np.ndarray, resolved: np.ndarray, separation: int, n: int = 1) -> np.ndarray:
    """Pairs (P, 2) of resolved residues with the highest `scores` (L, L), as `ContactMap.best` says."""
    first, second = np.triu_indices(len(resolved), separation)
    known = resolved[first] & resolved[second]
    first, second = first[known], second[known]
    taken = np.argsort(-scores[first, second], kind="stable")[: max(1, int(resolved.sum()) // n)]
    return np.column_stack([first[taken], second[taken]])


def choose_chain(names: Sequence[str], lengths: np.ndarray) -> int:
    """Which protein to draw: the paper's if it is among them, else the longest."""
    of_paper = (place for place, name in enumerate(names) if any(mark in name.upper() for mark in PAPER))
    return next(of_paper, int(np.argmax(lengths)))


def save(directory: Path, drawn: ContactMap) -> None:
    with written_whole(directory / CONTACT_MAP) as file:
        np.savez_compressed(file, **vars(drawn))


def load(directory: Path) -> ContactMap:
    """Read what `save` wrote; `InputError` if it is not there or something else."""
    file = directory / CONTACT_MAP
    if not file.is_file():
        raise InputError(f"{directory}: no {CONTACT_MAP} in it")
    try:
        with np.load(file, allow_pickle=False) as found:
            scalars = (str(found["name"]), int(found["record"]), int(found["seed"]))
            return ContactMap(*scalars, found["logits"], found["contacts"], found["resolved"])
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{file}: not a contact map of this version ({error})") from None
