"""Potts models of proteins without an alignment, by a neural Potts model.

L residues of a protein, N proteins of that length.
"""

import numpy as np
import torch

from proteinlm.data.batches.packing import pack_letters
from proteinlm.errors import InputError
from proteinlm.inference.memory import free_memory
from proteinlm.inference.model import Model, check_length
from proteinlm.models.potts import STATES, Potts, states_of


def potts_of(model: Model, letters: np.ndarray) -> Potts:
    """The Potts model of the family of a protein (L,) uint8, on the model's device.

    Raises `InputError` if the weights are of no neural Potts model, the protein is too long for them, or its couplings for
    the memory.
    """
    if model.neural_potts is None:
        raise InputError(f"{model.origin}: no neural Potts model, which alone gives couplings of a single protein")
    check_length(len(letters), model.positions)
    needed = 4 * 4 * (len(letters) * STATES) ** 2
    if needed > (there := free_memory(model.machine.device)):
        raise InputError(
            f"couplings of {len(letters):,} residues take {needed / 1e9:.1f} GB, and there are {there / 1e9:.1f} GB"
        )
    packed = model.machine.to_device(pack_letters([letters]))
    with torch.no_grad():
        return model.neural_potts(model.hidden_states(packed)[1:].clone())  # the first is that of [CLS]


def log_likelihoods(model: Potts, proteins: list[np.ndarray]) -> np.ndarray:
    """The log-probabilities (N,) float64 of proteins (L,) uint8 by a Potts model, up to a constant that all share."""
    states = torch.from_numpy(states_of(np.stack(proteins))).to(model.fields.device)
    return -model.energies(states).double().cpu().numpy()
