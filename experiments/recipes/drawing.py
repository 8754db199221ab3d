"""Validation perplexity along the tokens, a panel for each shape."""

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import style
from experiments.recipes.outcome import PAPER, Arm, shaped

MODERN = "modern"


def draw(arms: list[Arm]) -> Figure:
    """The paper's recipe and the modern one in colour, the others in grey, each named where it ends."""
    shapes = sorted({arm.shape for arm in arms})
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)
    width = style.WIDE if columns > 1 else style.WIDE / 1.6
    made, panels = style.grid(width, 3.4, rows, columns, len(shapes))
    for panel, shape in zip(panels, shapes, strict=True):
        of = [arm for arm in arms if arm.shape == shape]
        ends: list[tuple[float, Arm]] = []
        for arm in of:
            colour = {PAPER: style.PUBLISHED, MODERN: style.OURS}.get(arm.name, style.FAINT)
            thick = 1.8 if arm.name in (PAPER, MODERN) else 0.9
            values = np.exp(arm.curve.value)
            panel.plot(arm.curve.tokens, values, color=colour, linewidth=thick)
            ends.append((float(values[-1]), arm))
        low, high = panel.get_ylim()
        height = 0.0
        for value, arm in sorted(ends, key=lambda end: end[0]):
            height = max(value, height + 0.045 * (high - low)) if height else value
            colour = {PAPER: style.PUBLISHED, MODERN: style.OURS}.get(arm.name, style.FAINT)
            panel.annotate(
                arm.name,
                (float(arm.curve.tokens[-1]), value),
                (float(arm.curve.tokens[-1]) * 1.015, height),
                color=colour,
                va="center",
                fontsize=7.5,
                annotation_clip=False,
            )
        panel.set_title(shaped(shape))
        panel.set_xlim(left=0)
        panel.set_xlabel("million tokens")
    panels[0].set_ylabel("perplexity of validation proteins")
    return made
