"""Pretrain by each recipe and ingredient, and say what each reaches: ``python -m experiments.recipes``.

Lists are written with commas; other words are Hydra overrides of every run, as in ``data=files data.root=DIR``. Started
again, it goes on; with more arms, rates or seeds in the same directory, they are added to what is there.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.figures import style
from experiments.recipes import drawing, outcome, runs
from proteinlm.errors import InputError
from proteinlm.launch import cores, entry
from proteinlm.storage.atomic import own_directory, write_text


def main(arguments: list[str] | None = None) -> int:
    options, overrides = _parse(arguments)
    directory = Path(options.output)
    wanted = runs.plan_runs(options.arms, options.shapes, options.rates, options.seeds)
    with own_directory(directory, "a comparison of recipes"):
        runs.carry_out(wanted, directory, overrides, options.jobs)
        found = runs.done(directory)
        table = outcome.tables(directory, found)
        write_text(directory / "recipes.md", table)
        with style.figure_style():
            written = style.save(drawing.draw(outcome.arms(directory, found)), directory / "recipes")
    print(table, end="")
    print(f"written: {directory}/recipes.md, {', '.join(file.name for file in written)}")
    return 0


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m experiments.recipes", description=__doc__)
    parser.add_argument("--arms", type=_list(_arm), default="paper,modern", help=", ".join(runs.ARMS))
    parser.add_argument("--shapes", type=_list(_shape), default="128x3x8", help="hidden size x layers x heads")
    parser.add_argument("--rates", type=_list(float), default="2e-3", help="learning rates")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--jobs", type=int, default=cores.physical_cores(), help="runs side by side")
    parser.add_argument("--output", default="runs/recipes", help="directory of the comparison")
    options, overrides = parser.parse_known_args(arguments)
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}={getattr(options, name)} is less than 1")
    return options, overrides


def _list(of: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def read(text: str) -> list[Any]:
        try:
            return [of(each) for each in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _arm(text: str) -> str:
    if text not in runs.ARMS:
        raise ValueError(f"{text} is not one of {', '.join(runs.ARMS)}")
    return text


def _shape(text: str) -> tuple[int, int, int]:
    try:
        hidden, layers, heads = map(int, text.split("x"))
    except ValueError:
        raise ValueError(f"{text} is not hidden size x layers x heads, as in 128x3x8") from None
    return hidden, layers, heads


if __name__ == "__main__":
    entry.command(main)
