"""How often verdicts are wrong, as a figure: ``python -m experiments.figures.error_rates DIR --out verdicts``."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import style
from experiments.table7 import error_rate
from experiments.table7.claims import CONTRADICTED, SUPPORTED
from proteinlm.launch import entry


def draw(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Bars for each claim, supported and contradicted end to end, a panel for each table; 5 % are a line."""
    made, panels = style.grid(style.WIDE, 3.4, 1, len(found), len(found), sharey=True)
    for panel, (name, shares) in zip(panels, found.items(), strict=True):
        places, below = np.arange(len(shares)), np.zeros(len(shares))
        for verdict, colour in ((SUPPORTED, style.OURS), (CONTRADICTED, style.PUBLISHED)):
            widths = np.array([100 * each[verdict] for each in shares.values()])
            panel.barh(places, widths, left=below, color=colour, height=0.6, label=verdict)
            below += widths
        panel.axvline(5, color=style.INK, linewidth=0.9, linestyle="--")
        panel.set_yticks(places, [fill(claim, 38) for claim in shares])
        panel.set_xlim(0, max(6, *below))
        panel.set_xlabel("% of tables without the effect")
        panel.set_title(name.removeprefix("table7-"))
    panels[0].invert_yaxis()
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = error_rate.parser("experiments.figures.error_rates")
    parser.add_argument("--out", type=Path, required=True, help="write OUT.png and OUT.svg")
    options = parser.parse_args(arguments)
    found = error_rate.measure(options.directories, options.tables)
    with style.figure_style():
        style.save(draw(found), options.out)
    return 0


if __name__ == "__main__":
    entry.command(main)
