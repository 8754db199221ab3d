"""A neural Potts model for the embedded universe: ``python -m experiments.neural_potts --output DIR --model PRETRAINED``.

A step reads one protein of each of a few training families, gives its family a Potts model, and scores new relatives by
it (Sercu et al. 2021). The backbone is trained along; it starts from the weights in `--model`, or at random. Test chains are
of folds that no step has seen. Beside the model, ``untrained`` holds its control: the same before the first step.

N relatives, L residues.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments.family_training import STATE, Rate, draw_alignment, take_steps
from proteinlm import checkpoint
from proteinlm.config import ModelConfig, SyntheticDataConfig
from proteinlm.data.batches.packing import pack_letters
from proteinlm.data.synthetic.families import Role, Universe, generator_of, universe_of
from proteinlm.errors import InputError
from proteinlm.inference.model import NEURAL_POTTS, Model, load
from proteinlm.inference.neural_potts import potts_of
from proteinlm.launch import entry
from proteinlm.models import potts, registry
from proteinlm.models.neural_potts import NeuralPotts
from proteinlm.models.packed import per_protein
from proteinlm.models.potts import Potts, states_of
from proteinlm.records.bootstrap import Scores, bootstrap
from proteinlm.records.run_directory import WEIGHTS

STEPS = 150
FAMILIES = 8
"""Families that a step reads a protein of."""
RELATIVES = 16
RATE = Rate(4e-3, warmup=30)
SHAPE = ModelConfig(hidden_size=128, num_layers=3, num_heads=8, dropout=0.0)
"""Of a backbone that starts at random."""
UNTRAINED = "untrained"
COMPARED, FITTED = 40, 249
"""Held-out families of the comparison, and the relatives that a Potts model of each is fitted to."""


def train(config: SyntheticDataConfig, directory: Path, steps: int = STEPS, start: Path | None = None) -> Model:
    """Train a model on the universe's training families and save it in `directory`, unless it is there.

    Its backbone starts from the weights in `start`. Raises `InputError` if the directory has the state of another run, and
    for weights whose positions are too few.
    """
    if not (directory / WEIGHTS).is_file():
        universe = universe_of(config)
        modules, shape, weights = _new_modules(config, start)
        if shape.max_positions <= universe.length.max():
            raise InputError(f"{start}: positions for {shape.max_positions - 1} residues, too few for this universe")

        def loss(step: int) -> Tensor:
            return _loss(modules, universe, generator_of(config, "neural potts", f"step {step}"))

        checkpoint.save_weights(directory / UNTRAINED, modules, shape)
        settings = {"data": asdict(config), "backbone": weights}
        take_steps("training a neural Potts model", nn.ModuleDict(modules), loss, RATE, steps, directory, settings)
        checkpoint.save_weights(directory, modules, shape)
        (directory / STATE).unlink(missing_ok=True)
    return load(directory, device="cpu", precision="fp32")


def _new_modules(config: SyntheticDataConfig, start: Path | None) -> tuple[dict[str, nn.Module], ModelConfig, str]:
    """Backbone and head before the first step, the shape of the backbone, and the fingerprint of its weights."""
    weights = checkpoint.load_weights(start) if start else None
    shape = weights.config if weights else SHAPE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        modules = {"backbone": registry.build(shape), NEURAL_POTTS: NeuralPotts(shape.hidden_size)}
    if weights:
        checkpoint.restore({"backbone": modules["backbone"]}, weights)
    return modules, shape, weights.fingerprint if weights else "random"


def _loss(modules: Mapping[str, nn.Module], universe: Universe, generator: np.random.Generator) -> Tensor:
    """Minus the mean log-probability of residues of relatives, of families that the generator draws."""
    families = generator.choice(universe.of(Role.TRAIN), FAMILIES, replace=False)
    drawn = [draw_alignment(universe, family, 1 + RELATIVES, generator) for family in families.tolist()]
    packed = pack_letters([letters[0] for letters in drawn])
    hidden = per_protein(modules["backbone"](packed.tokens, packed.starts, packed.longest), packed.starts)
    head = modules[NEURAL_POTTS]
    assert isinstance(head, NeuralPotts)
    found = [
        head.log_likelihoods(each[1:], torch.from_numpy(states_of(letters[1:]))).mean()
        for each, letters in zip(hidden, drawn, strict=True)
    ]
    return -torch.stack(found).mean()


def compare(config: SyntheticDataConfig, directory: Path) -> dict[str, Scores]:
    """Minus the mean log-probability of a residue given all others of the same protein, for each held-out family.

    By the model in `directory` and its control, from one protein of the family, beside models that are fitted to `FITTED`
    of its relatives; all are held against the same relatives, which none has seen.
    """
    universe, generator = universe_of(config), generator_of(config, "neural potts", "comparison")
    families = generator.choice(universe.of(Role.FOLD), COMPARED, replace=False)
    trained, untrained = (load(each, device="cpu", precision="fp32") for each in (directory, directory / UNTRAINED))
    methods: dict[str, Callable[[np.ndarray], Potts]] = {
        "neural Potts model, one protein": lambda letters: potts_of(trained, letters[0]),
        "the same, untrained": lambda letters: potts_of(untrained, letters[0]),
        f"Potts model, fitted to {FITTED} relatives": lambda letters: _fitted(letters, potts.fit),
        "the same without couplings": lambda letters: _fitted(letters, potts.fit_independent),
    }
    values: dict[str, list[float]] = {name: [] for name in methods}
    for family in families.tolist():
        letters = draw_alignment(universe, family, 1 + 2 * FITTED, generator)
        states = torch.from_numpy(states_of(letters[1 + FITTED :]))
        for name, model_of in methods.items():
            values[name].append(-float(model_of(letters[: 1 + FITTED]).log_conditionals(states).mean()))
    return {name: Scores(np.arange(COMPARED), np.array(each), np.ones(COMPARED)) for name, each in values.items()}


def _fitted(letters: np.ndarray, fit: Callable[[Tensor, Tensor], Potts]) -> Potts:
    return fit(torch.from_numpy(states_of(letters)), torch.ones(len(letters)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.neural_potts", description="A neural Potts model.")
    parser.add_argument("--output", type=Path, required=True, help="directory for the weights")
    parser.add_argument("--model", type=Path, help="weights that the backbone starts from; by default at random")
    parser.add_argument("--universe", type=int, default=0, help="seed of the synthetic universe and of training")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of {FAMILIES} families")
    options = parser.parse_args(arguments)
    if options.universe < 0 or options.steps < 1:
        raise InputError("--universe must not be negative, --steps at least 1")
    config, began = SyntheticDataConfig(seed=options.universe), time.process_time()
    model = train(config, options.output, options.steps, options.model)
    modules = (model.backbone, model.neural_potts)
    parameters = [sum(each.numel() for each in module.parameters()) for module in modules if module]
    seconds = time.process_time() - began
    print(
        f"{options.output}: {sum(parameters):,} parameters, {parameters[-1]:,} of the head, {seconds:.0f} s",
        file=sys.stderr,
    )
    print(f"\nMinus the log-probability of a residue given the others, in {COMPARED} held-out families")
    for name, sample in compare(config, options.output).items():
        low, high = bootstrap(sample)
        print(f"{name:40}{sample.estimate():.3f} ({low:.3f} to {high:.3f})")
    return 0


if __name__ == "__main__":
    entry.command(main)
