"""Ask what the embeddings know: a logistic regression on them predicts helix, strand or coil of every residue.

The model stays as it is; only the regression learns. It is compared with a regression that sees the residue alone, so
the difference is what the model has read from the neighbours. The proteins are those of the embedded default.
"""

import numpy as np
import torch
from torch.nn import functional as F

from proteinlm import load
from proteinlm.config import SyntheticDataConfig
from proteinlm.data import synthetic

STATES = 3  # helix, strand, coil
UNIVERSE = SyntheticDataConfig(labelled=0.3)


def residues(split):
    """Embeddings (N, H), one-hot residues (N, 26) and states (N,) of all residues of a split."""
    records = synthetic.labelled(UNIVERSE, "secondary_structure", split)
    sequences = [record["primary"] for record in records]
    letters = np.frombuffer("".join(sequences).encode(), dtype=np.uint8) - ord("A")
    states = np.concatenate([record["ss3"] for record in records])
    hidden = np.concatenate(model.embed(sequences, "residue"))
    return torch.from_numpy(hidden), torch.eye(26)[torch.from_numpy(letters).long()], torch.from_numpy(states).long()


def accuracy_of_probe(features, states, test_features, test_states):
    """Fit a logistic regression (with a small penalty on its weights) and score it on other proteins."""
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-6
    weights = torch.zeros(features.shape[1] + 1, STATES, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def logits(x):
        return (x - mean) / deviation @ weights[:-1] + weights[-1]

    def loss():
        optimiser.zero_grad()
        total = F.cross_entropy(logits(features), states) + 1e-3 * weights.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return (logits(test_features).argmax(dim=1) == test_states).float().mean().item()


model = load()
(hidden, letters, states), (test_hidden, test_letters, test_states) = residues("train"), residues("cb513")
commonest = (test_states == states.mode().values).float().mean().item()
print(f"{len(states):,} residues to learn from, {len(test_states):,} of other families to test")
print(f"always the commonest state   {commonest:.3f}")
print(f"probe of the residue alone   {accuracy_of_probe(letters, states, test_letters, test_states):.3f}")
print(f"probe of the embeddings      {accuracy_of_probe(hidden, states, test_hidden, test_states):.3f}")
