"""Which figures there are, and what is said below each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from experiments.figures import contacts, curves, heat, records, scaling
from experiments.table7.rows import Row

Draw = Callable[[bool], Figure | None]
"""A figure, for a narrow column or not; None if the records do not have what it needs."""


@dataclass(frozen=True)
class Drawing:
    """One figure of a sweep."""

    name: str
    title: str
    caption: str
    draw: Draw


def of(rows: list[Row]) -> list[Drawing]:
    """The figures of these rows, in the order of the page."""
    found = records.maps(rows)
    return [
        Drawing(
            "table7",
            "The table at a glance",
            "Each column is shaded from its worst row to its best. Bold: the best of the ten rows, or not distinguishable "
            "from it. Below each score its 95 % interval over the test proteins. From each result.json.",
            partial(heat.draw, rows),
        ),
        Drawing(
            "contacts",
            "Contact maps",
            (
                f"{contacts.title(found)}. Below the diagonal the contacts (C-alpha closer than 8 Å, six or more residues "
                "apart), above it what is predicted; the darker, the more probable. Marked are the L most confident pairs "
                "at least 24 residues apart. As the paper's Figures 6 to 8. From contact_map.npz."
                + (
                    " Maps by an alignment or by couplings are each on a scale of their own; a Potts model's scores are no "
                    "probabilities." * bool(found.aligned)
                )
                if found
                else "No row has left a contact map."
            ),
            lambda narrow: contacts.draw(found, narrow) if found else None,
        ),
        *(
            Drawing(
                f"curves-{by}",
                f"Training by {by}",
                "Masked-residue loss of each row: training (line, smoothed), validation on unseen proteins (diamonds); the "
                "other rows in grey; the steepest part of the descent is cut off. The paper shows two of these shapes, in "
                "its Figures 9 and 10. From metrics.csv of each pretraining.",
                partial(curves.draw, rows, by),
            )
            for by in ("tokens", "hours")
        ),
        Drawing(
            "score-parameters",
            "Score against parameters",
            "Ours are the shapes that were trained, the paper's the full ones. For contacts the paper counted in another "
            "way (see the notes on the table). From each result.json.",
            partial(scaling.against_parameters, rows),
        ),
        Drawing(
            "score-flops",
            "Score against work",
            "FLOPs of forward and backward pass per token, counted in the same way for both; the paper's on Pfam's lengths. "
            "How many tokens the paper's rows saw is not published; ours all saw the same number. From each result.json.",
            partial(scaling.against_flops, rows),
        ),
        Drawing(
            "depth-width",
            "Depth against width",
            "Each shape by its layers and hidden size, with its mean rank over the columns of the table (1 is best; larger "
            "points are better). Along a line the parameters are equal. Two numbers: two rows that differ in heads alone. "
            "From each result.json.",
            partial(scaling.depth_and_width, rows),
        ),
    ]
