"""A small MSA Transformer for the embedded universe: ``python -m experiments.msa_pretraining --output DIR``.

The published weights are those of a model of 100 million parameters. This one has 0.2 million, so that a table without a
download has a row of its kind. It reads an alignment of a training family at each step and guesses hidden residues
(Rao et al. 2021). The regression of contacts is then fitted to 20 of these families; those of test chains are of other
folds.

R rows, L residues, C columns, one more because of [CLS].
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.family_training import STATE, Rate, draw_alignment, take_steps
from proteinlm.config import SyntheticDataConfig
from proteinlm.data.synthetic.families import Role, Universe, generator_of, universe_of
from proteinlm.data.synthetic.folds import contacts
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.errors import InputError
from proteinlm.inference.attention_contacts import FITTED_CHAINS, correct_average_product, fit_regression
from proteinlm.interop.esm_msa import load_model, save_model
from proteinlm.launch import entry
from proteinlm.models.msa_transformer import MASK, TOKENS, MSATransformer, Shape, encode
from proteinlm.records.contact_map import SHORT
from proteinlm.records.run_directory import WEIGHTS

STEPS = 450
ROWS = 16
"""Of an alignment in training; twice as many are read afterwards."""
RATE = Rate(1e-3, warmup=60)
HIDDEN = 0.15
"""The share of residues that are guessed: of these, 80 % are hidden, 10 % replaced at random, and 10 % as they are."""
AMINO_ACIDS = np.array([TOKENS.index(chr(letter)) for letter in LETTERS])


def train(config: SyntheticDataConfig, directory: Path, steps: int = STEPS) -> MSATransformer:
    """Train a model on the universe's training families and save it in `directory`, unless it is there.

    Raises `InputError` if the directory has the state of another run.
    """
    if (directory / WEIGHTS).is_file():
        return load_model(directory)
    universe = universe_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _new_model(int(universe.length.max()))

    def loss(step: int) -> Tensor:
        return _loss(model, universe, generator_of(config, "msa", f"step {step}"))

    take_steps("training an MSA Transformer", model, loss, RATE, steps, directory, {"data": asdict(config)})
    model.eval().requires_grad_(False)
    _fit_contacts(model, universe, generator_of(config, "msa", "contacts"))
    save_model(directory, model.shape, model.state_dict())
    (directory / STATE).unlink(missing_ok=True)
    return model


def _new_model(longest: int) -> MSATransformer:
    shape = Shape(64, 3, 4, 256, max_positions=longest + 1, max_rows=2 * ROWS)
    model = MSATransformer(shape)
    for embedding in (model.tokens, model.positions):
        nn.init.normal_(embedding.weight, std=0.06)  # else tied logits begin far from even
    return model


def _loss(model: MSATransformer, universe: Universe, generator: np.random.Generator) -> Tensor:
    """The cross-entropy of hidden residues in an alignment of a family that the generator draws."""
    families = universe.of(Role.TRAIN)
    tokens = encode(draw_alignment(universe, int(families[generator.integers(len(families))]), ROWS, generator))
    shape = tokens[:, 1:].shape
    guessed, fate = generator.random(shape) < HIDDEN, generator.random(shape)
    read = tokens.copy()
    read[:, 1:][guessed & (fate < 0.8)] = MASK
    replaced = guessed & (fate >= 0.9)
    read[:, 1:][replaced] = generator.choice(AMINO_ACIDS, int(replaced.sum()))
    hidden, _ = model(torch.from_numpy(read))
    logits = model.logits(hidden[:, 1:][torch.from_numpy(guessed)])
    return F.cross_entropy(logits, torch.from_numpy(tokens[:, 1:][guessed]))


def _fit_contacts(model: MSATransformer, universe: Universe, generator: np.random.Generator) -> None:
    """Fit the regression that reads contacts off the maps of attention."""
    features, labels = [], []
    for family in generator.choice(universe.of(Role.TRAIN), FITTED_CHAINS, replace=False).tolist():
        letters = draw_alignment(universe, family, 2 * ROWS, generator)
        _, maps = model(torch.from_numpy(encode(letters)))
        length = letters.shape[1]
        first, second = np.triu_indices(length, SHORT)
        features.append(correct_average_product(maps[:, 1:, 1:])[:, first, second].T.numpy())
        labels.append(contacts(universe.folds[universe.fold[family]].coordinates[:length])[first, second])
    seen = np.concatenate(labels)
    coefficients, intercept = fit_regression(np.concatenate(features), seen, np.ones(len(seen)))
    model.contacts.weight.copy_(torch.from_numpy(coefficients)[None])
    model.contacts.bias.fill_(intercept)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.msa_pretraining", description="A small MSA Transformer."
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the weights")
    parser.add_argument("--universe", type=int, default=0, help="seed of the synthetic universe and of training")
    parser.add_argument("--steps", type=int, default=STEPS, help="alignments to see")
    options = parser.parse_args(arguments)
    if options.universe < 0 or options.steps < 1:
        raise InputError("--universe must not be negative, --steps at least 1")
    began = time.process_time()
    model = train(SyntheticDataConfig(seed=options.universe), options.output, options.steps)
    parameters = sum(each.numel() for each in model.parameters())
    print(f"{options.output}: {parameters:,} parameters, {time.process_time() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    entry.command(main)
