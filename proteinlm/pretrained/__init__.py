"""The model that comes with the suite: weights pretrained on real proteins, described in docs/model_card.md."""

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""A directory of weights, like ``model/`` of any pretraining."""
