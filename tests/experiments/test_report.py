"""The page is one file that needs no network, says of every number where it comes from, and can be read by everybody."""

import ast
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from experiments.report import __main__ as report
from experiments.report.page import pieces
from experiments.table7 import published
from experiments.table7.claims import of_rows
from experiments.table7.rows import collect
from proteinlm import planner
from proteinlm.errors import InputError
from tests.experiments.sweeps import made_up

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AUDIT = (Path(__file__).parent / "audit.js").read_text()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up(tmp_path_factory.mktemp("sweep") / "made-up")
    assert report.main([str(made)]) == 0
    return made


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    return (sweep / "report.html").read_text()


class Numbers(HTMLParser):
    """The ``<data>`` elements of a page, with their text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str], str]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "data"
        if self._inside:
            self.found.append(({name: value or "" for name, value in attrs}, ""))

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def test_every_number_is_that_of_the_record_it_names(sweep: Path, page: str):
    found = Numbers(page).found
    assert len(found) > 400
    assert len({attributes["data-file"] for attributes, _ in found}) > 60
    for attributes, text in found:
        value = recorded(sweep, attributes["data-file"], attributes["data-field"])
        assert float(attributes["value"]) == pytest.approx(value, rel=1e-12), attributes
        digits = re.match(r"[−\d.,]+", text)
        assert digits, text
        shown = digits[0].replace("−", "-").replace(",", "")
        half = 0.5 * 10.0 ** -len(shown.partition(".")[2]) * (1 + 1e-9)
        assert abs(float(shown) - value / float(attributes["data-scale"])) <= half, (text, value)


def recorded(sweep: Path, file: str, field: str) -> float:
    """The number anew, from the file and the field that the page names."""
    if file == "experiments/table7/published.py":
        name, *places = re.findall(r"^\w+|\[[^]]+\]", field)
        value: Any = getattr(published, name)
        for place in places:
            value = value[ast.literal_eval(place[1:-1])]
        return value
    if file == "proteinlm/planner/plan.py":
        return getattr(planner.PFAM, field.removeprefix("PFAM."))
    if file == "the name of the row":
        return next(row for row in collect(sweep) if row.name == "hidden-3072-layer-24-head-16").full.parameters
    records = [json.loads(each.read_text()) for each in sorted(sweep.glob(file))]
    if field == "sum of device_seconds":
        return sum(one["seconds"] * one["processes"] * one["threads"] for one in records)
    (record,) = records
    if field.startswith("formula"):
        hidden, layers = record["hidden_size"], record["num_layers"]
        return layers * (12 * hidden**2 + 13 * hidden) + (128 + 2176 + 2) * hidden + hidden**2 + 3 * hidden + 128
    if field.startswith("sum of "):
        return sum(at(record, field.removeprefix("sum of ")).values())
    if field.startswith("log of "):
        return math.log(at(record, field.removeprefix("log of ")))
    first, _, second = field.partition(" / ")
    return at(record, first) / (at(record, second) if second else 1)


def at(record: Any, field: str) -> Any:
    for part in re.findall(r"\w+", field):
        record = record[int(part)] if isinstance(record, list) else record[part]
    return record


def test_what_it_says_of_the_claims_is_what_the_table_says(sweep: Path, page: str):
    text = page.replace("−", "-").replace("&#39;", "'").replace("&lt;", "<")
    for found in of_rows(collect(sweep)):
        assert f"{found.claim} <span" in text
        assert f">{found.verdict}</span>" in text
        assert f"<p>{found.effect}.</p>" in text
        assert found.statistic in text
        assert all(f"<li>{piece}</li>" in text for piece in pieces(found.evidence))


def test_nothing_is_fetched(page: str):
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert all(link.startswith(("#", "data:")) for pair in addresses for link in pair if link)


def test_what_is_missing_is_said(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("hidden-512-layer-32-head-8", "hidden-768-layer-12-head-6"):
        shutil.copytree(sweep / name / "stability", tmp_path / name / "stability")
    assert report.main([str(tmp_path)]) == 0
    assert "report: row hidden-3072-layer-24-head-16 has no result" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "row hidden-3072-layer-24-head-16 has no result." in page
    assert page.count("missing</span>") == 8 * 10 - 2
    with pytest.raises(InputError, match="no results in it"):
        report.main([str(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")])


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: the page was not opened in a browser")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(width: int, scheme: str, page: str, tmp_path: Path):
    """No errors, nothing wider than the window, text that stands out, names for all there is, and a table that sorts."""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{AUDIT}</script></body>"))
    frame = f'<iframe id="f" src="page.html" style="border:0;width:{width}px;height:900px"></iframe>'
    wait = 'onmessage = (e) => { document.body.textContent = "AUDIT" + e.data + "TIDUA"; };'
    (tmp_path / "frame.html").write_text(f"<body><script>{wait}</script>{frame}</body>")
    command = [CHROMIUM, "--headless", "--disable-gpu", "--enable-logging=stderr", "--window-size=1400,1000"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={scheme == 'light':d}",
    ]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    command += ["--virtual-time-budget=20000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    ended = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=300)
    assert ":CONSOLE" not in ended.stderr, ended.stderr
    found = re.search("AUDIT(.*)TIDUA", ended.stdout, re.DOTALL)
    assert found, ended.stdout[-2000:]
    audit = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert audit["dark"] == (scheme == "dark")
    assert audit["width"] == width
    assert audit["problems"] == []
    assert audit["checked"] > 300
