"""What came of a comparison of recipes: each at its best rate, and after which share of the tokens it was as good."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from experiments.figures.records import Curve, curve
from experiments.recipes.runs import ARMS, Run
from experiments.table7.rows import PRETRAIN, Row
from proteinlm.records.results import Result

Shape = tuple[int, int, int]
PAPER = "paper"


@dataclass(frozen=True)
class Arm:
    """All seeds of one recipe at one shape, at its best rate."""

    name: str
    shape: Shape
    rate: float
    parameters: int
    tokens: int
    valid: list[float]
    """Perplexities on validation proteins, one for each seed."""
    heldout: list[float]
    """And on families that training lacks."""
    curve: Curve
    """Validation loss, the mean over the seeds."""
    share: float | None
    """Of the tokens, after which the mean loss was no more than that of the paper's recipe at its end; None if never."""


def by_rate(runs: dict[Run, Result]) -> dict[tuple[str, Shape], dict[float, list[Run]]]:
    """Runs of each recipe and shape, by their rate."""
    found: dict[tuple[str, Shape], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs):
        found[run.arm, run.shape][run.rate].append(run)
    return found


def arms(directory: Path, runs: dict[Run, Result]) -> list[Arm]:
    """One for each recipe and shape, in the order of `ARMS`; the best rate is the one of the least perplexity of seed 0."""
    found = []
    for (name, shape), rates in by_rate(runs).items():
        rate = min(rates, key=lambda rate: perplexity(runs[rates[rate][0]], "valid"))
        results = [runs[run] for run in rates[rate]]
        curves = [_curve(directory, run, runs[run]) for run in rates[rate]]
        found.append(
            Arm(
                name,
                shape,
                rate,
                results[0].parameters,
                results[0].tokens,
                [perplexity(result, "valid") for result in results],
                [perplexity(result, "holdout") for result in results],
                Curve(curves[0].tokens, curves[0].hours, np.mean([each.value for each in curves], axis=0)),
                None,
            )
        )
    goals = {arm.shape: float(arm.curve.value[-1]) for arm in found if arm.name == PAPER}
    known = [
        replace(arm, share=share_to_reach(arm.curve, goals[arm.shape])) if arm.shape in goals else arm for arm in found
    ]
    return sorted(known, key=lambda arm: (arm.shape, place(arm.name)))


def share_to_reach(along: Curve, goal: float) -> float | None:
    """The share of the tokens after which a loss is no more than `goal`, on straight lines between validations."""
    below = np.flatnonzero(along.value <= goal)
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return float(along.tokens[0] / along.tokens[-1])
    part = (along.value[at - 1] - goal) / (along.value[at - 1] - along.value[at])
    tokens = along.tokens[at - 1] + part * (along.tokens[at] - along.tokens[at - 1])
    return float(tokens / along.tokens[-1])


def perplexity(result: Result, split: str) -> float:
    score = result.score("masked_language_model", split, "perplexity")
    return score.value if score else float("nan")


def _curve(directory: Path, run: Run, result: Result) -> Curve:
    found = curve(Row(run.name, directory / run.name, {PRETRAIN: result}), "valid/loss")
    assert found is not None
    return found


def tables(directory: Path, runs: dict[Run, Result]) -> str:
    """The comparison in Markdown: the recipes at their best rates, and if there are several, all rates."""
    lines = [
        "| recipe | hidden x layers x heads | parameters | rate | seeds | valid | held out | tokens to the paper's |"
    ]
    lines += ["|:--|:--|--:|--:|--:|--:|--:|--:|"]
    for arm in arms(directory, runs):
        share = "–" if arm.share is None else f"{100 * arm.share:.0f} %"
        lines.append(
            f"| {arm.name} | {shaped(arm.shape)} | {arm.parameters:,} | {arm.rate:g} | {len(arm.valid)} "
            f"| {_spread(arm.valid)} | {_spread(arm.heldout)} | {share} |"
        )
    rates = sorted({run.rate for run in runs})
    if len(rates) > 1:
        lines += ["", f"| valid, by rate (seed 0) | {' | '.join(f'{rate:g}' for rate in rates)} |"]
        lines += ["|:--|" + "--:|" * len(rates)]
        for (name, shape), of in sorted(by_rate(runs).items(), key=lambda item: (place(item[0][0]), item[0][1])):
            found = {rate: perplexity(runs[of[rate][0]], "valid") for rate in rates if rate in of}
            least = min(found.values())
            cells = [_cell(found.get(rate), least) for rate in rates]
            lines.append(f"| {name} {shaped(shape)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def place(name: str) -> int:
    """Of a recipe in the list of all."""
    return list(ARMS).index(name)


def shaped(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _cell(value: float | None, least: float) -> str:
    if value is None:
        return ""
    return f"**{value:.2f}**" if value == least else f"{value:.2f}"


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")
