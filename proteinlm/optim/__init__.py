"""Optimisers, learning rates and gradient clipping."""

from proteinlm.optim.optimizer import build as build
from proteinlm.optim.optimizer import clip as clip
from proteinlm.optim.optimizer import learning_rate as learning_rate
from proteinlm.optim.optimizer import moments as moments
from proteinlm.optim.optimizer import reorder_state as reorder_state
from proteinlm.optim.optimizer import skip_update as skip_update
