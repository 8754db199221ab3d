"""Score every point mutation of a protein without any measured effects, and look where the model tolerates none.

Hide one residue at a time and ask the model what it expects there. The score of a mutation is the log-odds of the mutant
and the wild type (masked marginals); below zero, the model finds the mutant less likely. Adenylate kinase holds its
nucleotide by a loop of glycines, G-x-x-G-x-G-K, at residues 7 to 13.
"""

import numpy as np

from proteinlm import load, vocabulary
from proteinlm.inference.likelihoods import masked_log_probabilities

KINASE = (
    "MRIILLGAPGAGKGTQAQFIMEKYGIPQISTGDMLRAAVKSGSELGKQAKDIMDAGKLVTDELVIALVKERIAQEDCRNGFLLDGFPRTIPQADAMKEAGINVDYVLEF"
    "DVPDELIVDRIVGRRVHAPSGRVYHVKFNPPKVEGKDDVTGEELTTRKDDQEETVRKRLVEYHQMTAPLIGYYSKEAEAGNTKYAKVDGTKPVAEVRADLEKILG"
)
LOOP = slice(6, 13)

letters = np.frombuffer(KINASE.encode(), dtype=np.uint8)
places = np.arange(len(letters))
logs = masked_log_probabilities(load(), letters, places)  # (L, V): one pass for each residue
wild_type = logs[places, vocabulary.encode(KINASE)]
scores = logs[:, vocabulary.encode(vocabulary.AMINO_ACIDS)] - wild_type[:, None]  # (L, 20)
tolerance = scores.mean(axis=1)  # (L,)

best = np.unravel_index(scores.argmax(), scores.shape)
print(f"{19 * len(letters):,} point mutations of adenylate kinase from E. coli")
print(f"likeliest: {KINASE[best[0]]}{best[0] + 1}{vocabulary.AMINO_ACIDS[best[1]]}, score {scores[best]:+.2f}")
print(
    "least tolerant:",
    ", ".join(f"{KINASE[place]}{place + 1} {tolerance[place]:+.2f}" for place in tolerance.argsort()[:6]),
)
print(f"mean score in the glycine loop {tolerance[LOOP].mean():+.2f}, in the whole protein {tolerance.mean():+.2f}")
