"""Read contacts off a model's attention, and hold them against what nearness along the sequence gives.

Twenty chains of known structure say which of the attention maps to read (a logistic regression, as in Rao et al. 2021).
The chains are those of the embedded default, so no structure is downloaded.
"""

from itertools import islice

import numpy as np

from proteinlm import load
from proteinlm.inference.attention_contacts import fit, solved_chains, training_chains
from proteinlm.records.contact_map import most_confident

LONG = 6  # least separation along the sequence: nearer residues always touch


def precision(scores, chain):
    """Share of contacts among the L most confident pairs of a chain of L resolved residues."""
    pairs = most_confident(scores, chain.resolved, LONG)
    return chain.contacts[pairs[:, 0], pairs[:, 1]].mean()


model = load()
readout = fit(model, training_chains("synthetic", longest=150))
print(f"fitted to {readout.proteins} chains; the best attention heads: {readout.heads[:5]}")

attention, nearness, chance = [], [], []
for chain in islice(solved_chains("synthetic", "test"), 20):
    places = np.arange(len(chain.letters))
    attention.append(precision(readout.probabilities(model, chain.letters).numpy(), chain))
    nearness.append(precision(-abs(places[:, None] - places), chain))
    far = np.triu(chain.resolved[:, None] & chain.resolved, LONG)
    chance.append(chain.contacts[far].mean())
print(f"precision of the L most confident pairs, mean of {len(attention)} chains of folds that the fit has not seen:")
print(
    f"attention {np.mean(attention):.3f}, nearness along the sequence {np.mean(nearness):.3f}, chance {np.mean(chance):.3f}"
)
