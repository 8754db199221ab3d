"""Training curves of all rows, one panel each, by tokens or by hours (the paper's Figures 9 and 10 are two of them)."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import style
from experiments.figures.records import Curve, curve, moving_mean
from experiments.table7.published import TABLE7
from experiments.table7.rows import PRETRAIN, Row

PAPER_FIGURES = {"hidden-512-layer-32-head-8": "Fig. 9", "hidden-2048-layer-12-head-16": "Fig. 10"}
DESCENT = 0.1
"""Share of a run after which its loss is drawn in full."""
WINDOWS = 25
"""Of the smoothed training loss, across a run: what is less than that is noise of single steps."""


def draw(rows: list[Row], by: str, narrow: bool = False) -> Figure | None:
    """Masked-residue loss `by` ``tokens`` or ``hours``; None without a tracked row."""
    scale, unit = 1.0, "million tokens"
    if by == "hours":
        longest = max((row.results[PRETRAIN].seconds for row in rows if PRETRAIN in row.results), default=0.0)
        scale, unit = (60.0, "minutes of training") if longest < 3 * 3600 else (1.0, "hours of training")

    def along(found: Curve) -> np.ndarray:
        return found.tokens if by == "tokens" else found.hours * scale

    losses = {row.name: found for row in rows if row.name in TABLE7 and (found := curve(row, "train/loss"))}
    valid = {row.name: found for row in rows if (found := curve(row, "valid/loss"))}
    if not losses:
        return None
    perplexities = {row.name: row.perplexity("valid") for row in rows}
    columns = 2 if narrow else 5
    width = style.NARROW if narrow else style.WIDE
    made, panels = style.grid(
        width,
        1.55 if narrow else 1.8,
        -(-len(losses) // columns),
        columns,
        len(losses),
        laid_out=False,
        sharex=True,
        sharey=True,
    )
    smooth = {name: moving_mean(found.value, max(3, len(found.value) // WINDOWS)) for name, found in losses.items()}
    lines = {name: _thinned(along(found), smooth[name]) for name, found in losses.items()}
    every = np.concatenate([np.vstack([line, [np.nan, np.nan]]) for line in lines.values()])
    for panel, name in zip(panels, losses, strict=True):
        panel.plot(*every.T, color=style.RULE, linewidth=0.7, zorder=1)
        panel.plot(*lines[name].T, color=style.OURS, linewidth=1.6, zorder=3)
        if name in valid:
            points = {"mfc": style.PAPER, "mec": style.PUBLISHED, "mew": 1.2, "ms": 4.5, "zorder": 4, "clip_on": False}
            panel.plot(along(valid[name]), valid[name].value, "D", **points)
        if score := perplexities[name]:
            where = {"xy": (1, 0.97), "xycoords": "axes fraction", "ha": "right", "va": "top", "fontsize": 7.5}
            panel.annotate(f"perplexity {score.value:.2f}", color=style.FAINT, **where)
        told = f" ({PAPER_FIGURES[name]})" if name in PAPER_FIGURES and not narrow else ""
        panel.set_title(style.short(name) + told)
    low, high = _range(smooth.values(), [found.value for found in valid.values()])
    panels[0].set_ylim(low, high)
    panels[0].set_xlim(left=0)
    style.set_gaps(made, (0.2, 0.36))
    style.name_axes(made, unit, "loss, nats per masked residue")
    return made


def _thinned(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Few enough points (P, 2) of a smooth line (n,) for a small panel."""
    chosen = np.unique(np.linspace(0, len(across) - 1, 100).astype(int))
    return np.column_stack([across, up])[chosen].round(6)


def _range(smooth: Iterable[np.ndarray], valid: Iterable[np.ndarray]) -> tuple[float, float]:
    """From the lowest loss to the highest after the first descent, which all rows share and which would hide the rest."""
    smooth = list(smooth)
    low = min(float(each.min()) for each in (*smooth, *valid))
    high = max(float(each[int(DESCENT * len(each)) :].max()) for each in smooth)
    return low - 0.08 * (high - low), high + 0.05 * (high - low)
