"""Model and optimiser on disk: checkpoints to go on from, and weights to keep. Loads without Lightning."""

from proteinlm.checkpoint.run import DAMAGED as DAMAGED
from proteinlm.checkpoint.run import KEEP as KEEP
from proteinlm.checkpoint.run import best_of as best_of
from proteinlm.checkpoint.run import discard_all_but as discard_all_but
from proteinlm.checkpoint.run import discard_old as discard_old
from proteinlm.checkpoint.run import last_good as last_good
from proteinlm.checkpoint.run import path as path
from proteinlm.checkpoint.run import step_of as step_of
from proteinlm.checkpoint.run import verify as verify
from proteinlm.checkpoint.sharded import MOMENT as MOMENT
from proteinlm.checkpoint.sharded import WEIGHT as WEIGHT
from proteinlm.checkpoint.sharded import checkpoint_tensors as checkpoint_tensors
from proteinlm.checkpoint.sharded import lightning_entries as lightning_entries
from proteinlm.checkpoint.weights import Weights as Weights
from proteinlm.checkpoint.weights import check as check
from proteinlm.checkpoint.weights import load_weights as load_weights
from proteinlm.checkpoint.weights import restore as restore
from proteinlm.checkpoint.weights import save_tensors as save_tensors
from proteinlm.checkpoint.weights import save_weights as save_weights
