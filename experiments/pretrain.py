"""``python -m experiments.pretrain``: the same as ``proteinlm pretrain``."""

from proteinlm.training.cli import pretrain

if __name__ == "__main__":
    pretrain()
