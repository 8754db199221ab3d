"""Scores against size, work and shape, ours beside the paper's."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from scipy import stats

from experiments.figures import style
from experiments.table7.published import COLUMNS, TABLE7
from experiments.table7.rows import PRETRAIN, Row, shape_of
from proteinlm.config import ModelConfig
from proteinlm.planner import PFAM

OURS: dict[str, Any] = {"marker": "o", "ls": "", "color": style.OURS, "ms": 4.5, "mew": 0}
PAPER: dict[str, Any] = {"marker": "D", "ls": "", "mfc": "none", "mec": style.PUBLISHED, "mew": 1.1, "ms": 4.5}
MASKED = 0.15


def against_parameters(rows: list[Row], narrow: bool = False) -> Figure | None:
    """Each column against the parameters of the shapes that were trained, and of the paper's."""
    return _panels(rows, lambda row: row.parameters, lambda shape: shape.parameters, "parameters", narrow)


def against_flops(rows: list[Row], narrow: bool = False) -> Figure | None:
    """Each column against the FLOPs of pretraining per token, which both tell: the paper gives no number of tokens."""
    return _panels(rows, flops_per_token, flops_of_paper, "pretraining FLOPs per token", narrow)


def flops_per_token(row: Row) -> float:
    result = row.results[PRETRAIN]
    return result.flops / result.tokens


def flops_of_paper(shape: ModelConfig) -> float:
    """Of a full shape on Pfam's lengths, by the same count."""
    residues = PFAM.tokens - PFAM.count
    return shape.training_flops(PFAM.tokens, PFAM.squares, int(MASKED * residues)) / PFAM.tokens


def _panels(
    rows: list[Row], ours: Callable[[Row], float], paper: Callable[[ModelConfig], float], what: str, narrow: bool
) -> Figure | None:
    ten = [row for row in rows if row.name in TABLE7 and PRETRAIN in row.results]
    if not ten:
        return None
    columns = 2 if narrow else 4
    made, panels = style.grid(
        style.NARROW if narrow else style.WIDE,
        1.6 if narrow else 2.05,
        -(-len(COLUMNS) // columns),
        columns,
        len(COLUMNS),
        laid_out=False,
        sharex=True,
    )
    there = [paper(shape_of(name)) for name in TABLE7]
    for place, (panel, column) in enumerate(zip(panels, COLUMNS, strict=True)):
        panel.plot(there, [values[place] for values in TABLE7.values()], **PAPER)
        for row in ten:
            score = row.cells[column.key].score
            if score is None:
                continue
            if score.low is not None and score.high is not None:
                panel.plot([ours(row)] * 2, [score.low, score.high], color=style.OURS, linewidth=1, alpha=0.55)
            panel.plot([ours(row)], [score.value], **OURS)
        panel.set_title(column.title)
        _logarithmic(panel)
    style.set_gaps(made, (0.5 if narrow else 0.55, 0.36), legend=True)
    style.name_axes(made, what, "score")
    told = [Line2D([], [], label="ours, with 95 % interval", **OURS), Line2D([], [], label="paper", **PAPER)]
    made.legend(handles=told, loc="upper right", ncols=2, fontsize=8, borderaxespad=0.2)
    return made


def _logarithmic(panel: Axes) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.margins(x=0.06, y=0.1)


def depth_and_width(rows: list[Row], narrow: bool = False) -> Figure | None:
    """Mean rank of each shape in the plane of depth and width, along which lines of equal parameters run."""
    ten = [row for row in rows if row.name in TABLE7 and row.results]
    whole = [column for column in COLUMNS if all(row.cells[column.key].value is not None for row in ten)]
    if len(ten) < len(TABLE7) or not whole:
        return None
    ours = mean_ranks(np.array([[row.cells[column.key].value or 0.0 for column in whole] for row in ten]))
    columns = 1 if narrow else 2
    made, panels = style.grid(style.NARROW if narrow else style.WIDE * 0.8, 3.3, 2 // columns, columns, 2)
    _plane(panels[0], [row.built for row in ten], ours, "Ours, the shapes that were trained")
    _plane(panels[1], [shape_of(name) for name in TABLE7], mean_ranks(np.array(list(TABLE7.values()))), "The paper's")
    return made


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean over the columns of each row's rank, 1 the best; (R, C) to (R,)."""
    return stats.rankdata(-scores, axis=0).mean(axis=1)


def _plane(panel: Axes, shapes: list[ModelConfig], ranks: np.ndarray, title: str) -> None:
    places: dict[tuple[int, int], list[float]] = {}
    for shape, rank in zip(shapes, ranks.tolist(), strict=True):
        places.setdefault((shape.num_layers, shape.hidden_size), []).append(rank)
    layers, hidden = (np.array(each, dtype=float) for each in zip(*places, strict=True))
    _isolines(panel, shapes, (layers.min() / 1.35, layers.max() * 1.35), (hidden.min() / 1.5, hidden.max() * 1.5))
    best = min(min(each) for each in places.values())
    for (depth, width), found in places.items():
        size = 4 + 13 * (len(ranks) - float(np.mean(found))) / (len(ranks) - 1)
        panel.plot([depth], [width], "o", ms=size, color=style.OURS, alpha=0.85, mew=0)
        told = ", ".join(f"{rank:.1f}" for rank in found)
        weight = "bold" if best in found else "normal"
        panel.annotate(told, (depth, width), (9, 7), textcoords="offset points", fontsize=8, weight=weight)
    panel.set_xticks(sorted(set(layers)), [f"{each:.0f}" for each in sorted(set(layers))])
    panel.set_yticks(sorted(set(hidden)), [f"{each:.0f}" for each in sorted(set(hidden))])
    panel.set_xlabel("layers")
    panel.set_ylabel("hidden size")
    panel.set_title(title)


def _isolines(panel: Axes, shapes: list[ModelConfig], across: tuple[float, float], up: tuple[float, float]) -> None:
    """Lines of equal parameters through the plane."""
    layers, hidden = np.geomspace(*across, 80), np.geomspace(*up, 80)
    first = shapes[0]

    counts = [shape.parameters for shape in shapes]
    decades = 10.0 ** np.arange(3, 13)
    levels = [level for level in np.outer(decades, (1, 2, 5)).ravel() if 0.8 * min(counts) < level < 1.3 * max(counts)]
    panel.set_xscale("log")
    panel.set_yscale("log")
    grid = np.meshgrid(layers, hidden)
    panel.contour(*grid, parameters(first, *grid), levels=levels, colors=style.RULE, linewidths=0.9)
    for level in levels:  # where its line leaves the plane, told beside it
        width = float(np.interp(level, parameters(first, np.full_like(hidden, across[1]), hidden), hidden))
        panel.annotate(
            count(level),
            (across[1], width),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=style.FAINT,
        )
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_locator(NullLocator())


def parameters(like: ModelConfig, layers: Any, hidden: Any) -> Any:
    """`ModelConfig.parameters` of any depth and width, arrays too, with the tables of another shape."""
    tables = (like.vocab_size + like.max_positions + 5) * hidden
    return layers * (12 * hidden**2 + 13 * hidden) + tables + hidden**2 + like.vocab_size


def count(number: float) -> str:
    """``1.5 M``, ``2.7 B``: three digits at most."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
