"""Every figure is drawn from records alone, shows what they say, and names what it cannot show."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps

from experiments.figures import __main__ as figures
from experiments.figures import all as every
from experiments.figures import contacts, curves, error_rates, heat, records, scaling, style
from experiments.table7 import claims, error_rate
from experiments.table7.rows import Row, collect
from proteinlm.errors import InputError
from proteinlm.records import contact_map
from tests.experiments.sweeps import CONTROL, STEPS, made_up
from tests.runs import ROOT

NAMES = ("table7", "contacts", "curves-tokens", "curves-hours", "score-parameters", "score-flops", "depth-width")
LARGEST = "hidden-3072-layer-24-head-16"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("sweep") / "made-up")


@pytest.fixture(scope="module")
def rows(sweep: Path) -> list[Row]:
    return collect(sweep)


@pytest.fixture(scope="module")
def drawn(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("figures")
    assert figures.main([str(sweep), "--output", str(output)]) == 0
    return output


def text_of(file: Path) -> str:
    return " ".join(
        "".join(each.itertext()) for each in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")
    )


def test_all_are_there_in_both_forms(drawn: Path):
    assert sorted(file.name for file in drawn.iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    )
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn.glob("*.png"))


@pytest.mark.parametrize("narrow", [False, True])
def test_they_come_out_the_same_every_time(rows: list[Row], narrow: bool):
    drawing = every.of(rows)[-1]
    with style.figure_style():
        first, second = (style.svg(drawing.draw(narrow), "name") for _ in range(2))  # type: ignore[arg-type]
    assert first == second


def test_the_heat_map_has_every_score_and_interval(rows: list[Row], drawn: Path):
    told = text_of(drawn / "table7.svg").replace("−", "-")
    for row in rows:
        for cell in row.cells.values():
            assert cell.score
            assert f"{cell.value:.3f}" in told
            assert f"{cell.score.low:.2f} to {cell.score.high:.2f}" in told


def test_its_text_can_be_read_on_every_shade():
    for shade in np.linspace(0, 1, 101):
        light = heat.luminance(heat.SHADES(shade))
        black, white = (light + 0.05) / 0.05, 1.05 / (light + 0.05)
        assert (black if light > heat.EQUAL else white) >= 4.5  # WCAG 2, AA
    assert heat.SHADES(1.0) == pytest.approx(colormaps["cividis"](1.0))


def test_shades_go_from_the_worst_of_a_column_to_its_best():
    shades = heat.shading(np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 5.0]]))
    assert np.array_equal(shades, [[0, 0], [0.5, np.nan], [1, 0]], equal_nan=True)


def test_the_contact_maps_are_of_the_best_row_and_the_control(rows: list[Row], drawn: Path):
    found = records.maps(rows)
    assert found
    best = max(rows[:10], key=lambda row: row.cells["precision_at_l"].value or 0)
    assert (found.row, found.other_name) == (best.name, CONTROL)
    told = text_of(drawn / "contacts.svg")
    for one in (found.ours, found.other):
        assert f"P@L {one.precision(6):.2f}, of long range {one.precision(24):.2f}" in told
    assert "longest test chain, record 7" in told
    assert "longest test chain made up (record 7, 40 residues)" in contacts.title(found)


def test_the_best_row_is_held_against_its_own_control(rows: list[Row]):
    best = max(rows[:10], key=lambda row: row.cells["precision_at_l"].value or 0)
    own = replace(rows[-1], name=f"scratch-{best.name}")
    found = records.maps([*rows, own])
    assert found
    assert found.other_name == own.name


def test_without_a_control_they_are_compared_with_nearness(rows: list[Row]):
    found = records.maps([row for row in rows if row.name != CONTROL])
    assert found
    assert found.other_name == "nearest along the sequence"
    pairs = found.other.best(6)
    assert set(pairs[:, 1] - pairs[:, 0]) == {6, 7}


def test_the_map_of_an_alignment_stands_beside_them_if_it_is_of_the_same_protein(rows: list[Row]):
    found = records.maps(rows)
    assert found
    assert not found.aligned
    assert len(contacts.draw(found).axes) == 3
    here = rows[0].directory.parent / "alignments"
    here.mkdir()
    try:
        contact_map.save(here, found.other)
        beside = records.maps(rows)
        assert beside
        assert [*beside.aligned] == ["Potts model of an alignment"]
        panels = contacts.draw(beside).axes
        assert len(panels) == 4
        assert panels[3].get_title().startswith(f"Potts model of an alignment\nP@L {found.other.precision(6):.2f}")
        (here / "msa-transformer").mkdir()
        contact_map.save(here / "msa-transformer", found.ours)
        both = records.maps(rows)
        assert both
        for narrow in (True, False):
            panels = contacts.draw(both, narrow).axes
            assert [panel.get_visible() for panel in panels] == [True] * 5 + [False] * (len(panels) - 5)
            precision = found.ours.precision(6)
            assert panels[4].get_title().startswith(f"MSA Transformer of an alignment\nP@L {precision:.2f}")
        contact_map.save(here, replace(found.other, record=found.other.record + 1))
        other = records.maps(rows)
        assert other
        assert [*other.aligned] == ["MSA Transformer of an alignment"]
    finally:
        shutil.rmtree(here)


def test_the_paper_s_protein_is_called_by_its_names(rows: list[Row]):
    found = records.maps(rows)
    assert found
    theirs = replace(found, ours=replace(found.ours, name="TBM#T0889"))
    assert contacts.title(theirs) == "CASP12 target T0889 (PDB entry 5JO9), as in the paper: TBM#T0889, 40 residues"
    assert "T0889 (5JO9)" in contacts.draw(theirs).axes[0].get_title()


def test_curves_are_by_what_was_logged_or_else_by_the_share_of_the_whole(rows: list[Row], tmp_path: Path):
    row = rows[0]
    logged = records.curve(row, "train/loss")
    assert logged
    assert logged.tokens[-1] == pytest.approx(2057.6 * STEPS / 1e6)
    lines = (row.directory / "pretrain/metrics.csv").read_text().splitlines(keepends=True)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/metrics.csv").write_text("".join(line for line in lines if "progress" not in line))
    shared = records.curve(replace(row, directory=tmp_path), "train/loss")
    assert shared
    assert shared.value.tolist() == logged.value.tolist()
    assert shared.tokens == pytest.approx(logged.tokens, rel=1e-4)
    assert shared.hours == pytest.approx(logged.hours)


def test_smoothing_is_a_mean_of_neighbours():
    values = np.random.default_rng(0).normal(size=31)
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(31)]
    assert records.moving_mean(values, 5) == pytest.approx(expected)


def test_ranks_are_means_over_columns():
    assert scaling.mean_ranks(np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 2.0]])).tolist() == [2.0, 1.75, 2.25]


def test_lines_of_equal_parameters_are_those_of_the_shapes(rows: list[Row]):
    shapes = [row.built for row in rows[:10]]
    for shape in shapes:
        assert scaling.parameters(shape, shape.num_layers, shape.hidden_size) == shape.parameters


def test_what_is_missing_is_not_drawn(rows: list[Row], tmp_path: Path):
    without = [replace(row, results={}, directory=tmp_path) if row.name == LARGEST else row for row in rows]
    assert scaling.depth_and_width(without) is None
    assert records.maps([replace(row, directory=tmp_path) for row in rows]) is None
    assert curves.draw([replace(row, directory=tmp_path) for row in rows], "tokens") is None


def test_bad_input_is_named(rows: list[Row], tmp_path: Path):
    with pytest.raises(InputError, match="no results in it"):
        figures.main([str(tmp_path)])
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/metrics.csv").write_text("step,metric,value\n1,train/loss,high\n")
    with pytest.raises(InputError, match=r"metrics\.csv, line 2: not step,metric,value"):
        records.curve(replace(rows[0], directory=tmp_path), "train/loss")


def test_no_torch_is_needed():
    code = (
        "import sys; import experiments.figures.__main__, experiments.report.__main__; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_error_rates_are_bars_that_end_where_they_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert error_rates.main(["--tables", "20", "--out", str(tmp_path / "verdicts")]) == 0
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "%" in line]
    (panel,) = error_rates.draw({"the paper": error_rate.rates(claims.paper(), 20)}).axes
    ends = [patch.get_x() + patch.get_width() for patch in panel.patches[len(printed) :]]
    assert ends == pytest.approx([sum(float(cell.rstrip("% |")) for cell in line[1:]) for line in printed], abs=0.011)
    assert text_of(tmp_path / "verdicts.svg").count("Pretraining helps") == 2
