"""``python -m experiments.evaluate``: the same as ``proteinlm evaluate``."""

from proteinlm.training.cli import evaluate

if __name__ == "__main__":
    evaluate()
