"""How figures look: one ink, colours that people with any colour vision tell apart, and nothing that is not data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from proteinlm.storage.atomic import written_whole

INK, FAINT, RULE = "#1d2129", "#5f6875", "#d3d8df"
PAPER = "#fdfdfe"
OURS, PUBLISHED = "#0072b2", "#d55e00"
"""Blue, vermilion and reddish purple of Okabe and Ito (2008); shape tells the same as colour."""
WIDE, NARROW = 10.0, 3.75
"""Inches: a page or a screen, and a telephone."""

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "figure.dpi": 96,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in this style."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(_SETTINGS):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, whose parts are laid out so that nothing overlaps."""
    return Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.06)
    )


def grid(
    width: float,
    height: float,
    rows: int,
    columns: int,
    used: int,
    laid_out: bool = True,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` times `columns` panels `height` inches high, of which the first `used` are there.

    Not `laid_out`, it is for `spaced`.
    """
    made = figure(width, rows * height) if laid_out else Figure(figsize=(width, rows * height))
    panels = made.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel().tolist()
    for panel in panels[used:]:
        panel.set_visible(False)
    return made, panels[:used]


def set_gaps(made: Figure, gaps: tuple[float, float], legend: bool = False) -> None:
    """Lay out a grid of panels by fixed margins, which takes a fraction of the time of looking for them.

    `gaps` in inches between panels, across and up.
    """
    width, height = made.get_size_inches()
    place = made.axes[0].get_subplotspec()
    assert place
    rows, columns = place.get_gridspec().get_geometry()
    left, right, bottom, top = 0.62 / width, 1 - 0.12 / width, 0.5 / height, 1 - (0.5 if legend else 0.24) / height
    across = gaps[0] / ((right - left) * width - (columns - 1) * gaps[0]) * columns
    up = gaps[1] / ((top - bottom) * height - (rows - 1) * gaps[1]) * rows
    made.subplots_adjust(left=left, right=right, bottom=bottom, top=top, wspace=across, hspace=up)


def name_axes(made: Figure, across: str, up: str) -> None:
    """Write beside a grid what all of its panels show; the numbers at their axes keep clear of it."""
    made.supxlabel(across, fontsize=8.5)
    made.supylabel(up, fontsize=8.5, x=0.03 / made.get_size_inches()[0], ha="left")


def save(made: Figure, file: Path) -> list[Path]:
    """Write ``file.png`` and ``file.svg``, whole or not at all."""
    images = [file.with_name(f"{file.name}.{kind}") for kind in ("png", "svg")]
    with written_whole(images[0]) as opened:
        FigureCanvasAgg(made).print_png(opened, metadata={"Software": None})
    made.set_layout_engine("none")  # what was laid out stays so
    with written_whole(images[1]) as opened:
        opened.write(svg(made, file.name).encode())
    return images


def svg(made: Figure, name: str) -> str:
    """The figure as text, the same every time; `name` keeps its parts apart from those of others on a page."""
    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(made).print_svg(text, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def short(row: str) -> str:
    """``hidden-512-layer-32-head-8`` as ``512 × 32 · 8``: hidden size, layers, heads."""
    words = row.removeprefix("scratch-").split("-")
    if not row.removeprefix("scratch-").startswith("hidden-") or len(words) < 4:
        return row
    heads = f" · {words[5]}" if len(words) > 5 else ""
    return f"{words[1]} × {words[3]}{heads}" + (" from scratch" if row.startswith("scratch-") else "")
