"""Short trainings on families of the embedded universe, which a killed command goes on with.

What a step draws must follow from its number, so that a run that was killed ends in the weights of an undisturbed one.

R rows, L residues.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from proteinlm.data.progress import Bar
from proteinlm.data.synthetic.families import Universe, members
from proteinlm.data.synthetic.records import LETTERS
from proteinlm.errors import InputError
from proteinlm.storage.atomic import written_whole

STATE = "training.pt"
"""In the directory of the weights, until they are there: the model, its optimizer and the step."""
SAVED_EVERY = 20.0
"""Seconds between two states that a killed run can go on from."""
REPORTED_EVERY = 100


def draw_alignment(universe: Universe, family: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Letters (R, L) uint8 of so many new members of a family."""
    return LETTERS[members(universe, np.repeat(family, rows), generator)[:, : universe.length[family]]]


class Rate(NamedTuple):
    """The learning rate: it rises for `warmup` steps, and falls to zero over the second half of the steps."""

    highest: float
    warmup: int

    def at(self, step: int, steps: int) -> float:
        return self.highest * min((step + 1) / self.warmup, 2 * (1 - step / steps), 1)


def take_steps(
    title: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    rate: Rate,
    steps: int,
    directory: Path,
    settings: Mapping[str, object],
) -> None:
    """Train a model by the loss of each step, from the last saved state in `directory` on; the caller deletes `STATE`.

    Raises `InputError` if the directory has the state of another run: of other `settings`, or other `steps`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run = {**settings, "steps": steps}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate.highest, betas=(0.9, 0.98), weight_decay=0.01)
    begin = _go_on(directory / STATE, run, model, optimizer)
    saved = time.monotonic()
    with Bar(title, steps, of_bytes=False) as bar:
        bar.advance(begin)
        for step in range(begin, steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate.at(step, steps)
            optimizer.step()
            bar.advance(1)
            if (step + 1) % REPORTED_EVERY == 0:
                print(f"step {step + 1}: loss {value.item():.3f}", flush=True)
            if time.monotonic() - saved > SAVED_EVERY:
                _save_state(directory / STATE, {**run, "step": step + 1}, model, optimizer)
                saved = time.monotonic()


def _go_on(file: Path, run: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the state of a killed run, if there is one; returns the number of steps that are done."""
    if not file.is_file():
        return 0
    try:
        state = torch.load(file, weights_only=True)
        step: int = state["run"].pop("step")
        if of_this := state["run"] == run:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{file}: damaged ({type(error).__name__}): delete it to start anew") from None
    if not of_this:
        raise InputError(f"{file}: of a run with other data or steps: delete it, or name another directory")
    return step


def _save_state(file: Path, run: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with written_whole(file) as target:
        torch.save({"run": dict(run), "model": model.state_dict(), "optimizer": optimizer.state_dict()}, target)
