"""The page as HTML: what is on it, in which order, and the template that shows it."""

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.figures import all as figures
from experiments.figures import style
from experiments.figures.all import Drawing
from experiments.report import numbers, provenance, summary, tables
from experiments.report.benchmarks import Benchmarks
from experiments.table7 import claims, render
from experiments.table7.published import COLUMNS
from experiments.table7.rows import Row, choose_shown

HERE = Path(__file__).parent
ENLARGED = 1.6
"""CSS pixels for a point of a figure, of which an inch has 72: a fifth larger than in print."""
THEMED = {
    style.INK: "var(--ink)",
    style.FAINT: "var(--faint)",
    style.RULE: "var(--rule)",
    style.PAPER: "var(--page)",
    style.OURS: "var(--ours)",
    style.PUBLISHED: "var(--published)",
}
"""Colours of the figures that follow the page into the dark."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page, for wide windows and for narrow ones."""

    name: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


def of(rows: list[Row], problems: list[str], name: str, shown_benchmarks: Benchmarks) -> str:
    """The page about these rows, which have at least one result; of very many, about those that a reader is shown."""
    environment = _environment()
    environment.globals["short"] = style.short
    everything, rows = rows, choose_shown(rows)
    findings = claims.of_rows(rows)
    with style.figure_style():
        shown = {drawing.name: each for drawing in figures.of(rows) if (each := _shown(drawing))}
    return environment.get_template("page.html.j2").render(
        name=name,
        **_looks(),
        benchmarks=shown_benchmarks,
        problems=problems,
        summary=summary.of(rows, findings),
        columns=COLUMNS,
        lines=tables.lines(rows),
        caption=" ".join([render.caption(rows), *render.left_out(rows, everything)]).replace(
            "in brackets the", "below it the"
        ),
        findings=[(finding, pieces(finding.evidence)) for finding in findings],
        medium="" if any(row.name == tables.MEDIUM for row in rows) else tables.MEDIUM,
        small=[tables.first(rows), *tables.downstream(rows)],
        figures=shown,
        planned=tables.plan_rows(rows),
        scaled=provenance.scaled_down(rows),
        facts=provenance.facts(rows),
        versions=provenance.versions(rows),
        published=numbers.PUBLISHED,
    )


def of_benchmarks(shown: Benchmarks, name: str) -> str:
    """The page about benchmarks alone."""
    return _environment().get_template("benchmarks_page.html.j2").render(name=name, benchmarks=shown, **_looks())


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _looks() -> dict[str, Markup]:
    return {"style": Markup((HERE / "page.css").read_text()), "script": Markup((HERE / "page.js").read_text())}


def pieces(evidence: str) -> list[str]:
    """The evidence column by column, and what is said after them."""
    titles = "|".join(re.escape(column.title) for column in COLUMNS)
    return re.split(rf"(?:, (?=(?:{titles}) [-+])|; )", evidence)


def _shown(drawing: Drawing) -> Shown | None:
    wide, narrow = drawing.draw(False), drawing.draw(True)
    if wide is None or narrow is None:
        return None
    images = (inline(style.svg(made, f"{drawing.name}-{kind}")) for made, kind in ((wide, "wide"), (narrow, "narrow")))
    return Shown(drawing.name, drawing.title, drawing.caption, *images)


def inline(svg: str) -> Markup:
    """An SVG as part of a page: its own size as a limit, colours that follow the theme, no names that may clash."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(<g) id="[^"]*"', r"\1", body)  # what is referred to, clip paths and markers, keeps its name
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert found
    width, height = found.groups()
    names = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg"'
    size = f'viewBox="0 0 {width} {height}" style="max-width: {ENLARGED * float(width):.0f}px"'
    body = f'<svg {names} {size} aria-hidden="true">' + body[body.index(">") + 1 :]
    for colour, variable in THEMED.items():
        body = body.replace(colour, variable)
    return Markup(body.replace("'DejaVu Sans'", "var(--sans)"))
