"""Model and optimiser on disk: checkpoints to go on from, and weights to keep. Loads without Lightning."""

from proteinlm.checkpoint.run import DAMAGED as DAMAGED
from proteinlm.checkpoint.run import KEPT as KEPT
from proteinlm.checkpoint.run import MOMENT as MOMENT
from proteinlm.checkpoint.run import SHAPE as SHAPE
from proteinlm.checkpoint.run import WEIGHT as WEIGHT
from proteinlm.checkpoint.run import WEIGHTS as WEIGHTS
from proteinlm.checkpoint.run import Weights as Weights
from proteinlm.checkpoint.run import best_of as best_of
from proteinlm.checkpoint.run import check as check
from proteinlm.checkpoint.run import discard_all_but as discard_all_but
from proteinlm.checkpoint.run import discard_old as discard_old
from proteinlm.checkpoint.run import divided as divided
from proteinlm.checkpoint.run import last_good as last_good
from proteinlm.checkpoint.run import load_weights as load_weights
from proteinlm.checkpoint.run import newest as newest
from proteinlm.checkpoint.run import path as path
from proteinlm.checkpoint.run import restore as restore
from proteinlm.checkpoint.run import save_tensors as save_tensors
from proteinlm.checkpoint.run import save_weights as save_weights
from proteinlm.checkpoint.run import step_of as step_of
from proteinlm.checkpoint.run import undivided as undivided
from proteinlm.checkpoint.run import verify as verify
