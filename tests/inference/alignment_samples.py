"""Small alignments, and the Potts models that are fitted to them."""

from pathlib import Path

import numpy as np
import torch

from proteinlm.data.alignments.reading import read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.models import potts
from tests.data.samples import protein

CPU = ("--device", "cpu")
QUERY = protein(12, 1)


def relatives(query: str, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(20):
        kept = generator.random(len(query)) < 0.7
        rows.append(
            "".join(
                a if same else b for a, b, same in zip(query, protein(len(query), len(rows) + seed), kept, strict=True)
            )
        )
    return [query, *rows]


def write_a3m(path: Path, query: str) -> Path:
    """Write an alignment of a query and twenty relatives."""
    path.write_text("".join(f">{number}\n{row}\n" for number, row in enumerate(relatives(query, 5))))
    return path


def fitted(path: Path, couplings: bool = True) -> potts.Potts:
    alignment = read_alignment(path)
    states = torch.from_numpy(potts.states_of(alignment.letters))
    weights = torch.from_numpy(sequence_weights(alignment.letters)).float()
    return potts.fit(states, weights) if couplings else potts.fit_independent(states, weights)
