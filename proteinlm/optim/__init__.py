"""Optimisers, learning rates and gradient clipping."""

from proteinlm.optim.optimizer import arranged as arranged
from proteinlm.optim.optimizer import build as build
from proteinlm.optim.optimizer import clip as clip
from proteinlm.optim.optimizer import hold as hold
from proteinlm.optim.optimizer import learning_rate as learning_rate
from proteinlm.optim.optimizer import moments as moments
