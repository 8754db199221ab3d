"""``python -m experiments.finetune``: the same as ``proteinlm finetune``."""

from proteinlm.training.cli import finetune

if __name__ == "__main__":
    finetune()
