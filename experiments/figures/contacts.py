"""The contact map of one protein: as it is, as a comparison sees it, and as ours does (the paper's Figures 6 to 8)."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures import style
from experiments.figures.records import Maps
from proteinlm.records.contact_map import LONG, SHORT, ContactMap

# colours of `style`, in shades of their own: a page that is dark changes those, and these maps stay white
HIT: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "none", "mec": "#0073b3", "mew": 1.1, "ms": 4.5}
MISS: dict[str, Any] = {"marker": "x", "ls": "", "color": "#d45d00", "mew": 1.0, "ms": 3.5}
GREYS = LinearSegmentedColormap.from_list("contacts", [(1, 1, 1, 0), "#9aa3af", "#1d2129"])


def draw(found: Maps, narrow: bool = False) -> Figure:
    count = 3 + len(found.aligned)
    columns = 1 if narrow else 2 if count == 4 else 3
    width = style.NARROW if narrow else style.WIDE
    made, panels = style.grid(width, width / columns + (0.55 if narrow else 0.8), -(-count // columns), columns, count)
    by_nearness = not found.other_name.startswith("scratch-")
    strongest = max(_seen(drawn).max() for drawn in ([found.ours] if by_nearness else [found.ours, found.other]))
    which = "T0889 (5JO9)" if found.ours.of_paper else f"longest test chain, record {found.ours.record}"
    _panel(panels[0], found.ours.contacts.astype(float), found.ours, f"In truth\n{which}", marked=False)
    shade = _top(found.other) if by_nearness else _seen(found.other) / strongest
    _panel(panels[1], shade, found.other, "Nearest along the sequence" if by_nearness else "From scratch")
    _panel(panels[2], _seen(found.ours) / strongest, found.ours, style.short(found.row))
    for panel, (name, drawn) in zip(panels[3:], found.aligned.items(), strict=True):
        shade = _seen(drawn)
        _panel(panel, shade / shade.max(), drawn, name)
    hit, miss = (
        Line2D([], [], label="most confident long-range pairs: right", **HIT),
        Line2D([], [], label="wrong", **MISS),
    )
    made.legend(handles=[hit, miss], loc="outside lower center", ncols=1 if narrow else 2, fontsize=8)
    return made


def title(found: Maps) -> str:
    """Which protein it is, and whether the paper's."""
    drawn = found.ours
    name = f" {drawn.name}" if drawn.name else ""
    if drawn.of_paper:
        return f"CASP12 target T0889 (PDB entry 5JO9), as in the paper:{name}, {drawn.length} residues"
    return f"The longest test chain{name} (record {drawn.record}, {drawn.length} residues); the data lack the paper's T0889"


def _top(drawn: ContactMap) -> np.ndarray:
    """The pairs that are taken for P@L, (L, L)."""
    taken = np.zeros(drawn.contacts.shape)
    pairs = drawn.best(SHORT)
    taken[pairs[:, 0], pairs[:, 1]] = taken[pairs[:, 1], pairs[:, 0]] = 1
    return taken


def _seen(drawn: ContactMap) -> np.ndarray:
    """Probabilities (L, L) of the pairs that count, nothing elsewhere."""
    known = drawn.resolved[:, None] & drawn.resolved
    place = np.arange(drawn.length)
    far = np.abs(place[:, None] - place) >= SHORT  # as in the table, nearer pairs are neither scored nor drawn
    return np.where(known & far, drawn.probabilities, 0.0)


def _panel(panel: Axes, shade: np.ndarray, drawn: ContactMap, name: str, marked: bool = True) -> None:
    """`shade` (L, L) above the diagonal, the truth below, and the most confident long-range pairs `marked`."""
    length, place = drawn.length, np.arange(drawn.length)
    apart = place[None] - place[:, None]  # column less row: above the diagonal where positive
    image = np.where(apart >= SHORT, shade, np.where(apart <= -SHORT, drawn.contacts, 0.0))
    extent = (0.5, length + 0.5, length + 0.5, 0.5)
    panel.set_facecolor("#ffffff")  # on dark pages too
    panel.imshow(image, cmap=GREYS, vmin=0, vmax=1, interpolation="none", extent=extent)
    panel.plot([1, length], [1, length], color=style.FAINT, linewidth=0.6)
    if marked:
        pairs = drawn.best(LONG)
        right = drawn.contacts[pairs[:, 0], pairs[:, 1]]
        for chosen, look in ((pairs[right], HIT), (pairs[~right], MISS)):
            panel.plot(chosen[:, 1] + 1, chosen[:, 0] + 1, clip_on=False, **look)
        name += f"\nP@L {drawn.precision(SHORT):.2f}, of long range {drawn.precision(LONG):.2f}"
    panel.set_title(name)
    panel.set_xlabel("residue")
    panel.set_ylabel("residue")
    panel.spines[:].set_visible(True)
    panel.spines[:].set_color(style.RULE)
