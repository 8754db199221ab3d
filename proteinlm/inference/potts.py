"""Potts models of alignments that users give: contact maps, and effects of variants."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from proteinlm.data.alignments.reading import Alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.memory import free_memory
from proteinlm.models import potts
from proteinlm.models.contact_evidence import NEIGHBOURS, POTENTIAL, add_evidence
from proteinlm.models.potts import Potts, states_of

SHALLOW = 0.5
"""Effective rows for each column, below which a user is told that the alignment is shallow."""


def fit(
    alignment: Alignment,
    device: torch.device,
    *,
    couplings: bool = True,
    weights: np.ndarray | None = None,
    says_depth: bool = False,
) -> Potts:
    """Fit a Potts model to an alignment, on a device; without `couplings`, the site-independent model.

    `weights` are those of its rows, if they are known. `says_depth` prints the effective depth on standard error. Raises
    `InputError` for an alignment of the query alone, and one whose couplings do not fit into memory.
    """
    if alignment.depth < 2:
        raise InputError(f"{alignment.origin}: the query alone: no relatives to compare it with")
    if alignment.columns < 2:
        raise InputError(f"{alignment.origin}: one column: no pairs")
    needed = potts.bytes_needed(alignment.depth, alignment.columns)
    if couplings and needed > (there := free_memory(device)):
        raise InputError(
            f"{alignment.origin}: couplings of {alignment.columns:,} columns take {needed / 1e9:.1f} GB, "
            f"and there are {there / 1e9:.1f} GB: cut the protein into domains"
        )
    weights = sequence_weights(alignment.letters) if weights is None else weights
    if says_depth:
        _say_depth(alignment, float(weights.sum()))
    states = torch.from_numpy(states_of(alignment.letters)).to(device)
    counted = torch.from_numpy(weights).float().to(device)
    if not couplings:
        return potts.fit_independent(states, counted)
    with Bar("fitting columns", alignment.columns, of_bytes=False) as bar:
        return potts.fit(states, counted, fitted=bar.advance)


def _say_depth(alignment: Alignment, depth: float) -> None:
    shallow = ", few for its length" if depth < SHALLOW * alignment.columns else ""
    print(
        f"{alignment.origin}: {alignment.depth:,} rows, {alignment.columns:,} columns, "
        f"effective depth {depth:,.0f}{shallow}",
        file=sys.stderr,
    )


class PottsReader:
    """Potts models that are fitted to each alignment.

    `potential` and `neighbours` say how much else contacts are read from, as `add_evidence` does; None: as it does.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        couplings: bool = True,
        potential: float | None = None,
        neighbours: float | None = None,
    ) -> None:
        self.device, self.couplings = device, couplings
        self.potential = POTENTIAL if potential is None else potential
        self.neighbours = NEIGHBOURS if neighbours is None else neighbours
        self.settings: dict[str, object] = {
            "method": "potts",
            "couplings": couplings,
            "potential": self.potential,
            "neighbours above zero": self.neighbours,
        }

    def contacts(self, alignment: Alignment) -> np.ndarray:
        weights = sequence_weights(alignment.letters)
        scores = fit(alignment, self.device, weights=weights, says_depth=True).contacts()
        states = torch.from_numpy(states_of(alignment.letters)).to(self.device)
        counted = torch.from_numpy(weights).float().to(self.device)
        found = add_evidence(scores, states, counted, potential=self.potential, neighbours=self.neighbours)
        return found.float().cpu().numpy()

    def log_odds(self, alignment: Alignment, variants: Sequence[Mapping[int, str]]) -> list[float]:
        states = np.tile(states_of(alignment.query), (1 + len(variants), 1))  # the query first
        for row, variant in enumerate(variants, 1):
            for place, letter in variant.items():
                states[row, place] = states_of(np.frombuffer(letter.encode(), np.uint8))[0]
        model = fit(alignment, self.device, couplings=self.couplings, says_depth=True)
        energies = model.energies(torch.from_numpy(states).to(self.device)).double()
        return (energies[0] - energies[1:]).tolist()
