"""The workspace shows the runs of one sweep by names that the runs do log, and the table as it is, without a server."""

import json
from pathlib import Path

import pytest

from experiments import dashboard
from experiments.table7.published import COLUMNS
from experiments.table7.rows import collect
from proteinlm.errors import InputError
from tests.experiments.sweeps import made_up
from tests.training import wandb_files


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up(tmp_path_factory.mktemp("sweep") / "made-up")
    assert dashboard.main([str(made)]) == 0
    return made


def test_the_workspace_has_a_panel_for_every_column(sweep: Path):
    made = json.loads((sweep / dashboard.SPECIFICATION).read_text())
    sections = {
        section["name"]: section["panels"] for section in made["spec"]["section"]["panelBankConfig"]["sections"]
    }
    bars = [panel["config"]["metrics"] for panel in sections["Downstream tasks"]]
    assert bars == [[f"summary_metrics.test/{c.stage}/{c.split}/{c.metric}"] for c in COLUMNS]
    assert {panel["config"]["xAxis"] for panel in sections["Pretraining"]} == {"progress/tokens", "progress/hours"}
    assert "made-up" in json.dumps(made["spec"]["section"]["runSets"]), "only the runs of this sweep"


def test_it_is_the_same_every_time(sweep: Path):
    again = dashboard.specification(dashboard.workspace("offline", "proteinlm", "made-up"))
    assert again == json.loads((sweep / dashboard.SPECIFICATION).read_text())


def test_the_table_is_a_run_of_the_group(sweep: Path):
    (written,) = wandb_files.runs(sweep / "wandb")
    assert (written.run.run_group, written.run.job_type) == ("made-up", "table")
    (file,) = (sweep / "wandb").glob("offline-run-*/files/media/table/table7_*.table.json")
    table = json.loads(file.read_text())
    for row, line in zip(collect(sweep), table["data"], strict=True):
        found = dict(zip(table["columns"], line, strict=True))
        assert found["row"] == row.name
        for column in COLUMNS:
            assert found[column.title] == row.cells[column.key].value
            assert found[f"{column.title} tie"] == row.cells[column.key].tie


def test_online_needs_a_name(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="--entity is empty"):
        dashboard.main([str(sweep)])
