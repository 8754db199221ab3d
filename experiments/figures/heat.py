"""Table 7 as a heat map: each column shaded from its worst row to its best, every cell with its interval."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments.figures import style
from experiments.table7.published import COLUMNS
from experiments.table7.rows import Row

SHADES = ListedColormap(colormaps["cividis"](np.linspace(0.12, 1, 256)))

EQUAL = 0.179
"""The luminance on which black and white have the same contrast."""


def draw(rows: list[Row], narrow: bool = False) -> Figure | None:
    """All rows that have a score; None if none has."""
    shown = [row for row in rows if any(cell.value is not None for cell in row.cells.values())]
    if not shown:
        return None
    values = np.array([[_number(row.cells[column.key].value) for column in COLUMNS] for row in shown])
    made = style.figure(style.NARROW if narrow else style.WIDE, (0.36 if narrow else 0.42) * len(shown) + 0.7)
    panel = made.subplots()
    large, little, labels = (6.5, 4.3, 6.2) if narrow else (8.5, 6.8, 8.5)
    shades = shading(values)
    panel.imshow(np.ma.masked_invalid(shades), cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for (line, place), shade in np.ndenumerate(shades):
        cell = shown[line].cells[COLUMNS[place].key]
        if cell.score is None:
            panel.text(place, line, "–", ha="center", va="center")
            continue
        colour = "#000000" if luminance(SHADES(shade)) > EQUAL else "#ffffff"
        weight = "bold" if cell.tie else "normal"
        told = cell.score.text().replace("-", "−")
        panel.text(place, line - 0.13, told, ha="center", va="center", color=colour, weight=weight, size=large)
        if cell.score.low is not None and cell.score.high is not None:
            joint = "–" if cell.score.low >= 0 and narrow else " to "
            interval = f"{cell.score.low:.2f}{joint}{cell.score.high:.2f}".replace("-", "−")
            panel.text(place, line + 0.26, interval, ha="center", va="center", color=colour, size=little)
    panel.set_xticks(range(len(COLUMNS)), [column.title for column in COLUMNS])
    panel.set_yticks(range(len(shown)), [style.short(row.name).replace(" from", "\nfrom") for row in shown])
    panel.tick_params(length=0, labeltop=True, labelbottom=False, labelcolor=style.INK, labelsize=labels)
    panel.spines[:].set_visible(False)
    for line in range(1, len(shown)):
        panel.axhline(
            line - 0.5, color=style.PAPER, linewidth=6 if shown[line].control > shown[line - 1].control else 1.5
        )
    for place in range(1, len(COLUMNS)):
        panel.axvline(place - 0.5, color=style.PAPER, linewidth=1.5)
    return made


def luminance(colour: tuple[float, float, float, float]) -> float:
    """Relative luminance of an sRGB colour, as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def shading(values: np.ndarray) -> np.ndarray:
    """From 0, the worst of a column, to 1, its best; (R, C)."""
    low = np.fmin.reduce(values, axis=0)  # nan only where a column has nothing else
    high = np.fmax.reduce(values, axis=0)
    return (values - low) / np.where(high > low, high - low, 1)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
