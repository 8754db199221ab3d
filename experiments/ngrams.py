"""What counting reaches on the very masked residues that pretraining is scored on: ``python -m experiments.ngrams``.

A language model that does not beat these numbers has learnt nothing from the rest of the protein. A tenth of the residues to
recover are shown as they are, and a tenth replaced: who sees no neighbour, but weighs what is shown by that rule, is at 15
where frequencies are at 18. Takes the same config as ``experiments.pretrain``; fits on the training split, scores the
validation and held-out splits with their pinned masks.
"""

import math
from collections.abc import Iterator

import numpy as np

from proteinlm.config import MaskedLanguageModelConfig, RunConfig
from proteinlm.data.store.sequences import Sequences
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.vocabulary import IDS, TOKENS

LETTERS = len(TOKENS)


@entry.hydra_main("pretrain")
def main(config: RunConfig) -> None:
    if not isinstance(config.task, MaskedLanguageModelConfig):
        raise InputError(f"task={config.task.name} hides no residues: counting is held against masked_language_model")
    for split, perplexities in score(config).items():
        print(split, "  ".join(f"{name} {value:.3f}" for name, value in perplexities.items()), sep="  ")


def score(config: RunConfig) -> dict[str, dict[str, float]]:
    """Perplexity of each model on each split: frequencies; with what is shown; with one neighbour, and both, besides."""
    from proteinlm.data import sources
    from proteinlm.data.batches.masking import shown_as

    likelihood = shown_as()
    corpus = sources.corpus(config.data)
    singles, pairs = count(corpus.splits["train"])
    frequency = singles / singles.sum()
    given_left = pairs / pairs.sum(axis=1, keepdims=True)  # (left, residue)
    given_right = (pairs / pairs.sum(axis=0, keepdims=True)).T  # (right, residue)
    perplexities = {}
    for split in ("valid", "holdout"):
        losses = {"frequencies": [], "residue shown": [], "and left neighbour": [], "and both neighbours": []}
        for target, shown, left, right in masked_residues(config, corpus.splits[split]):
            # a neighbour that is hidden, or not there, says nothing
            from_left = np.where(is_residue(left)[:, None], given_left[left], frequency)  # (K, letters)
            from_right = np.where(is_residue(right)[:, None], given_right[right], frequency)
            told = likelihood[:, shown].T  # (K, letters)
            nothing = np.broadcast_to(frequency, from_left.shape)
            models = (nothing, nothing * told, from_left * told, from_left * from_right / frequency * told)
            for name, model in zip(losses, models, strict=True):
                losses[name].append(np.log(model.sum(axis=1) / model[np.arange(len(target)), target]))
        perplexities[split] = {name: math.exp(np.concatenate(parts).mean()) for name, parts in losses.items()}
    return perplexities


def count(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Residues (31,) and neighbouring pairs (31, 31) of the training split, one added to each."""
    singles = np.ones(LETTERS)
    pairs = np.ones((LETTERS, LETTERS))
    for record in range(len(sequences)):
        tokens = sequences.tokens(record).astype(np.int64)
        singles += np.bincount(tokens, minlength=LETTERS)
        pairs += np.bincount(tokens[:-1] * LETTERS + tokens[1:], minlength=LETTERS**2).reshape(LETTERS, LETTERS)
    return singles, pairs


def masked_residues(
    config: RunConfig,
    sequences: Sequences,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What is to be recovered (K,), and the tokens shown there, to its left and to its right, as validation has them."""
    from proteinlm.data.batches.language_model import PINNED_SEED, MaskedProteins, validation_loader

    assert isinstance(config.task, MaskedLanguageModelConfig)
    proteins = MaskedProteins(
        sequences, longest=config.model.max_positions - 1, mask_percent=config.task.mask_percent, seed=PINNED_SEED
    )
    batches = validation_loader(
        proteins,
        budget=config.train.micro_batch_tokens,
        tokens=config.train.validation_tokens,
        rank=0,
        world=1,
        workers=0,
        pin_memory=False,
    )
    for batch in batches:
        shown = np.append(batch.masked.packed.tokens.numpy(), 0)  # nothing after the last protein
        positions = batch.masked.positions.numpy()
        yield batch.masked.targets.numpy(), shown[positions], shown[positions - 1], shown[positions + 1]


def is_residue(tokens: np.ndarray) -> np.ndarray:
    return tokens >= IDS["A"]


if __name__ == "__main__":
    main()
