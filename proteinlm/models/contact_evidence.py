"""What is known of pairs of columns besides their coupling: which residues they have, and which pairs are around them.

A Potts model is fitted to one alignment and knows nothing of proteins. Two things hold in all of them. Some residues touch
more often than others: those that lie inside, and those that attract each other, as cysteines and opposite charges. And
contacts lie in patches, where elements of the fold touch, while chance puts high scores anywhere.

N rows, L columns, Q states of a column.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.models.potts import GAP_STATE, STATES

POTENTIAL = 3.0
"""Deviations of the scores that a unit of the potential is worth, and the share of the scores around: both were chosen
together, on chains with alignments of the corpus (docs/results/alignments.md)."""
NEIGHBOURS = 0.25
SEPARATION = 6
"""From which on pairs are counted in that deviation; nearer residues always touch."""

# Rows and columns as in AMINO_ACIDS: the logarithm of how much likelier two residues touch than any two do, 24 or more
# apart. `python -m experiments.contact_potential` counted it on ProteinNet's training chains of 60 to 300 residues.
_TABLE = """
A  0.02  0.46 -0.39 -0.49  0.33  0.03 -0.02  0.55 -0.27  0.29  0.06 -0.18 -0.03 -0.25 -0.31 -0.17  0.08  0.52 -0.00  0.21
C  0.46  2.20  0.04 -0.01  0.69  0.44  0.56  0.65  0.07  0.66  0.67  0.32  0.16  0.25  0.26  0.39  0.54  0.79  1.08  0.76
D -0.39  0.04 -0.80 -1.14 -0.29 -0.19 -0.05 -0.33 -0.25 -0.51 -0.42 -0.34 -0.31 -0.79 -0.21 -0.32 -0.19 -0.29 -0.83 -0.28
E -0.49 -0.01 -1.14 -1.25 -0.45 -0.32 -0.37 -0.26 -0.37 -0.51 -0.49 -0.51 -0.39 -0.80 -0.49 -0.51 -0.38 -0.13 -0.44 -0.40
F  0.33  0.69 -0.29 -0.45  0.48  0.11  0.17  0.46 -0.21  0.31  0.35 -0.07  0.06 -0.22 -0.12  0.01  0.13  0.62  0.41  0.44
G  0.03  0.44 -0.19 -0.32  0.11  0.19  0.01  0.10 -0.16  0.06  0.03  0.01 -0.04 -0.01 -0.14 -0.00  0.11  0.14 -0.04  0.02
H -0.02  0.56 -0.05 -0.37  0.17  0.01  0.07  0.18 -0.52  0.02  0.11 -0.16  0.11 -0.48 -0.21 -0.19  0.05  0.14  0.14  0.02
I  0.55  0.65 -0.33 -0.26  0.46  0.10  0.18  0.77 -0.05  0.52  0.29 -0.20 -0.08 -0.15 -0.13  0.00  0.32  0.86  0.30  0.40
K -0.27  0.07 -0.25 -0.37 -0.21 -0.16 -0.52 -0.05 -0.88 -0.21 -0.34 -0.42 -0.36 -0.66 -0.90 -0.36 -0.26  0.03 -0.32  0.01
L  0.29  0.66 -0.51 -0.51  0.31  0.06  0.02  0.52 -0.21  0.41  0.19 -0.36 -0.18 -0.21 -0.27 -0.02  0.07  0.66  0.32  0.31
M  0.06  0.67 -0.42 -0.49  0.35  0.03  0.11  0.29 -0.34  0.19  0.24 -0.35 -0.17 -0.37 -0.20 -0.12 -0.03  0.41  0.21  0.41
N -0.18  0.32 -0.34 -0.51 -0.07  0.01 -0.16 -0.20 -0.42 -0.36 -0.35 -0.10 -0.09 -0.40 -0.46 -0.06 -0.04 -0.05 -0.14 -0.06
P -0.03  0.16 -0.31 -0.39  0.06 -0.04  0.11 -0.08 -0.36 -0.18 -0.17 -0.09  0.04 -0.21 -0.24 -0.13 -0.00  0.05 -0.07  0.18
Q -0.25  0.25 -0.79 -0.80 -0.22 -0.01 -0.48 -0.15 -0.66 -0.21 -0.37 -0.40 -0.21 -0.59 -0.59 -0.34 -0.18 -0.00 -0.14  0.01
R -0.31  0.26 -0.21 -0.49 -0.12 -0.14 -0.21 -0.13 -0.90 -0.27 -0.20 -0.46 -0.24 -0.59 -0.76 -0.31 -0.24  0.04  0.05  0.08
S -0.17  0.39 -0.32 -0.51  0.01 -0.00 -0.19  0.00 -0.36 -0.02 -0.12 -0.06 -0.13 -0.34 -0.31 -0.26  0.02  0.10 -0.42 -0.17
T  0.08  0.54 -0.19 -0.38  0.13  0.11  0.05  0.32 -0.26  0.07 -0.03 -0.04 -0.00 -0.18 -0.24  0.02  0.10  0.43 -0.09 -0.00
V  0.52  0.79 -0.29 -0.13  0.62  0.14  0.14  0.86  0.03  0.66  0.41 -0.05  0.05 -0.00  0.04  0.10  0.43  0.96  0.36  0.41
W -0.00  1.08 -0.83 -0.44  0.41 -0.04  0.14  0.30 -0.32  0.32  0.21 -0.14 -0.07 -0.14  0.05 -0.42 -0.09  0.36  0.40  0.59
Y  0.21  0.76 -0.28 -0.40  0.44  0.02  0.02  0.40  0.01  0.31  0.41 -0.06  0.18  0.01  0.08 -0.17 -0.00  0.41  0.59  0.54
"""


def _read(table: str) -> list[list[float]]:
    return [[float(value) for value in row.split()[1:]] for row in table.strip().splitlines()]


_LOG_ODDS = _read(_TABLE)


def add_evidence(
    scores: Tensor, states: Tensor, weights: Tensor, *, potential: float = POTENTIAL, neighbours: float = NEIGHBOURS
) -> Tensor:
    """The scores (L, L) of pairs of columns, with what their residues say, and then with a share of those around.

    The residues are those of the rows (N, L) int64 of the alignment, each counted by its weight (N,). `potential` and
    `neighbours` say how much either counts; 0 leaves it out.
    """
    far = torch.ones_like(scores, dtype=torch.bool).triu(SEPARATION)
    deviation = scores[far].std(correction=0) if far.any() else 0.0
    return add_neighbours(scores + potential * deviation * residue_potential(states, weights), neighbours)


def residue_potential(states: Tensor, weights: Tensor) -> Tensor:
    """The mean log-odds (L, L) that residues as those of two columns touch, each row's with each row's; gaps left out."""
    counts = weights.new_zeros(states.shape[1], STATES)
    counts.scatter_add_(1, states.T, weights.expand(len(counts), -1))
    residues = counts[:, :GAP_STATE]
    share = residues / residues.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return share @ share.new_tensor(_LOG_ODDS) @ share.T


def add_neighbours(scores: Tensor, share: float) -> Tensor:
    """Scores (L, L) of pairs, each with `share` of the scores above zero of the eight around it; zero on the diagonal.

    A score below zero says only that the average product was too large.
    """
    high = scores.clamp_min(0)
    around = F.avg_pool2d(high[None], 3, stride=1, padding=1, divisor_override=1)[0] - high
    return (scores + share * around).fill_diagonal_(0)
