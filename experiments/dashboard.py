"""The wandb workspace of a sweep: ``WANDB_MODE=online python -m experiments.dashboard runs/GROUP --entity ME``.

Without WANDB_MODE=online nothing leaves the machine: the table becomes an offline run beside the others, and the workspace
a file, ``dashboard.json``. ``wandb sync`` sends offline runs later.
"""

import argparse
import json
import os
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmark.table import Column, columns, contestants
from experiments.report.numbers import published
from experiments.table7.published import COLUMNS
from experiments.table7.rows import PRETRAIN, Row, collect_some
from proteinlm.config import TrackingConfig, digest
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records.run_directory import RESULT
from proteinlm.storage.atomic import write_text

if TYPE_CHECKING:
    import wandb
    from wandb_workspaces.workspaces import Workspace

TABLE, BENCHMARKS = "table7", "benchmarks"
TOKENS, HOURS = "progress/tokens", "progress/hours"  # as `proteinlm.training.tracking` names them
SPECIFICATION = "dashboard.json"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    shown = columns(options.directory)
    rows = collect_some(options.directory) if not shown or any(options.directory.rglob(RESULT)) else []
    group, online = options.directory.resolve().name, os.environ["WANDB_MODE"] == "online"
    if online and not options.entity:
        raise InputError("--entity is empty: name the user or team whose dashboard it is")
    made = workspace(options.entity or "offline", options.project, group, shown)
    write_text(options.directory / SPECIFICATION, json.dumps(specification(made), indent=2) + "\n")
    print(f"written: {options.directory / SPECIFICATION}")
    try:
        if rows:
            log_table(rows, options.directory, options.project, group)
        log_benchmarks(shown, options.directory, options.project, group)
        if online:
            made.save()
            print(f"dashboard: {made.url}")
            return 0
    except Exception as error:  # whatever a client may raise of a network
        raise InputError(f"wandb: {' '.join(str(error).split())}") from None
    print(
        f"offline; later: wandb sync {options.directory}/wandb/offline-run-* {options.directory}/*/*/wandb/offline-run-* \\"
    )
    print(f"    {options.directory}/*/*/seed-*/wandb/offline-run-*, then this command with WANDB_MODE=online")
    return 0


def workspace(entity: str, project: str, group: str, benchmarks: Sequence[Column] = ()) -> "Workspace":
    """All that is worth a look of the runs of `group`, and of its benchmarks; needs no server."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise InputError("wandb-workspaces is not installed: pip install 'proteinlm[dashboard]'") from None

    def curve(title: str, metric: str, x: str, smooth: bool = False) -> panels.LinePlot:
        width = panels.Layout(w=12, h=8)
        smoothing: Any = {"smoothing_type": "average", "smoothing_factor": 0.6} if smooth else {}
        named = "million tokens" if x == TOKENS else "hours"
        return panels.LinePlot(
            title=title, x=x, y=[metric], title_x=named, max_runs_to_show=20, layout=width, **smoothing
        )

    pretraining = [
        curve("Training loss by tokens", "train/loss", TOKENS, smooth=True),
        curve("Training loss by hours", "train/loss", HOURS, smooth=True),
        curve("Validation perplexity by tokens", "valid/perplexity", TOKENS),
        curve("Perplexity of held-out families by tokens", "test/holdout/perplexity", TOKENS),
        curve("Learning rate", "train/learning_rate", TOKENS),
        curve("Residues per second", "progress/residues_per_second", TOKENS),
    ]
    bars = [
        panels.BarPlot(title=column.title, metrics=[panels.SummaryMetric(score(column.key))], max_runs_to_show=40)
        for column in COLUMNS
    ]
    maps = panels.MediaBrowser(title="Contact maps", media_keys=["test/contact_map"], num_columns=5)
    table = panels.WeavePanelSummaryTable(table_name=TABLE, layout=panels.Layout(w=24, h=10))
    sections = [
        ws.Section(name="Table 7", panels=[table], is_open=True),
        ws.Section(name="Pretraining", panels=list(pretraining), is_open=True),
        ws.Section(name="Downstream tasks", panels=list(bars), is_open=True),
        ws.Section(name="Contact maps", panels=[maps]),
    ]
    if benchmarks:
        every = panels.WeavePanelSummaryTable(table_name=BENCHMARKS, layout=panels.Layout(w=24, h=10))
        beside = [
            panels.BarPlot(
                title=column.title, metrics=[panels.SummaryMetric(benchmark_score(column))], max_runs_to_show=40
            )
            for column in benchmarks
        ]
        sections.append(ws.Section(name="Benchmarks", panels=[every, *beside], is_open=True))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Depth and width: {group}",
        sections=sections,
        runset_settings=ws.RunsetSettings(filters=[ws.Metric("Group") == group]),
    )


def score(key: str) -> str:
    """What `proteinlm.training.tracking` calls the score of a column in a run's summary."""
    column = next(column for column in COLUMNS if column.key == key)
    return f"test/{column.stage}/{column.split}/{column.metric}"


def benchmark_score(column: Column) -> str:
    """What `log_benchmarks` calls the score of a column in a model's summary."""
    return f"test/{column.first.benchmark}/{column.first.split}/{column.first.main}"


def specification(made: "Workspace") -> dict[str, Any]:
    """The workspace as the server gets it, without the names that it makes up at every start."""
    model: dict[str, Any] = json.loads(made._to_model().model_dump_json(by_alias=True))

    def stable(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: stable(value) for key, value in part.items() if key not in ("__id__", "id")}
        return [stable(each) for each in part] if isinstance(part, list) else part

    return stable(model)


def log_table(rows: list[Row], directory: Path, project: str, group: str) -> None:
    """A run of the group that holds the table, paper and ours."""
    import wandb

    heads: list[int | str] = ["row", "parameters", "perplexity"]
    heads += [f"{column.title}{what}" for column in COLUMNS for what in ("", " low", " high", " tie", " paper")]
    with _run(directory, project, group, "table", TABLE) as run:
        run.log({TABLE: wandb.Table(columns=heads, data=[_line(row) for row in rows])})


def log_benchmarks(shown: Sequence[Column], directory: Path, project: str, group: str) -> None:
    """A run of the group for each model with its scores, and one that holds the table of all contestants."""
    import wandb

    if not shown:
        return
    heads: list[int | str] = ["contestant"]
    heads += [f"{column.title}{what}" for column in shown for what in ("", " low", " high", " tie")]
    with _run(directory, project, group, "table", BENCHMARKS) as run:
        lines: list[Any] = [
            [name, *(value for column in shown for value in _scores(column, name))] for name in contestants(shown)
        ]
        run.log({BENCHMARKS: wandb.Table(columns=heads, data=lines)})
    for model in dict.fromkeys(each.record.model for column in shown for each in column.cells.values()):
        with _run(directory, project, group, "benchmark", model) as run:
            for column in shown:
                if model in column.cells:
                    run.summary[benchmark_score(column)] = _scores(column, model)[0]


def _scores(column: Column, name: str) -> tuple[float | bool | None, ...]:
    """Score, interval and tie of a contestant in a column, None where there is none."""
    if name not in column.cells:
        return (None,) * 4
    scored, tie, _ = column.cells[name]
    return *(None if isnan(value) else value for value in (scored.value, scored.low, scored.high)), tie


def _run(directory: Path, project: str, group: str, kind: str, name: str) -> "wandb.Run":
    """A run that the same command finds again."""
    import wandb

    return wandb.init(
        project=project,
        group=group,
        job_type=kind,
        name=name,
        id=digest([str(directory.resolve()), *([kind] if kind != "table" else []), name]),
        dir=directory,
        resume="allow",
        settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, init_timeout=30),
    )


def _line(row: Row) -> list[Any]:
    pretraining, perplexity = row.results.get(PRETRAIN), row.perplexity("valid")
    line: list[Any] = [
        row.name,
        pretraining.parameters if pretraining else None,
        perplexity.value if perplexity else None,
    ]
    for column in COLUMNS:
        cell, paper = row.cells[column.key], published(row, column.key)
        low, high = (cell.score.low, cell.score.high) if cell.score else (None, None)
        line += [cell.value if cell.value == cell.value else None, low, high, cell.tie, paper.value if paper else None]
    return line


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.dashboard", description="The wandb workspace of a sweep."
    )
    parser.add_argument("directory", type=Path, help="of a sweep, one directory per row, or of benchmarks")
    parser.add_argument("--entity", default="", help="wandb user or team; needed with WANDB_MODE=online")
    parser.add_argument("--project", default=TrackingConfig().project)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    entry.command(main)
