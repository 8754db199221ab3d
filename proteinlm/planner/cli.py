"""``proteinlm plan``: what one run, or each of the ten rows, would take. Imports nothing heavy before it runs."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from proteinlm.errors import InputError
from proteinlm.launch import entry

if TYPE_CHECKING:
    from proteinlm.config import RunConfig
    from proteinlm.planner import Plan, Proteins

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="As for `proteinlm pretrain`: experiment/table7=..., profile=paper, strategy=fsdp, ..."),
]
Rows = Annotated[bool, typer.Option("--rows", help="Plan all ten rows of the table.")]
On = Annotated[str, typer.Option("--on", help="h200, h100, a100 or cpu: what each process computes on.")]
Price = Annotated[float | None, typer.Option("--price", help="Of an hour of one of them, in any currency.")]
Pfam = Annotated[bool, typer.Option("--pfam", help="Assume TAPE's Pfam instead of opening the configured data.")]


def plan(
    overrides: Overrides = None, rows: Rows = False, on: On = "cpu", price: Price = None, pfam: Pfam = False
) -> None:
    """Say what a run takes before it starts: memory, communication, time and cost."""
    from proteinlm import planner

    if on not in (choices := (*planner.HARDWARE, "cpu")):
        raise InputError(f"--on {on} is not one of {', '.join(choices)}")
    if price is not None and not 0 <= price < float("inf"):
        raise InputError(f"--price {price} is not a price")
    given = overrides or []
    names = sorted(file.stem for file in (entry.CONF / "experiment/table7").glob("*.yaml"))
    chosen = [[f"experiment/table7={name}", *given] for name in names] if rows else [given]
    configs = [run_config(choice) for choice in chosen]
    proteins = planner.PFAM if pfam else configured_proteins(configs[0])
    made = [planner.plan(config, proteins, planner.hardware_named(on, config.strategy.devices)) for config in configs]
    console = Console(soft_wrap=True, highlight=False)
    if rows:
        Console(width=max(console.width, 160), highlight=False).print(table(made, price))
    for one in made:
        if not rows:
            for what, how_much in planner.describe(one, price):
                console.print(f"{what:<15} {how_much}", markup=False)
        try:
            planner.check(one.config, one.proteins, one.hardware)
        except InputError as error:
            console.print(f"{one.config.name}: {error}", markup=False)


def run_config(overrides: list[str]) -> "RunConfig":
    """The config that ``proteinlm pretrain`` would get of `overrides`."""
    from proteinlm.config import RunConfig

    named = any(choice.startswith(("name=", "experiment/")) for choice in overrides)
    model = next((choice.removeprefix("model=") for choice in overrides if choice.startswith("model=")), "tiny")
    config = entry.compose("pretrain", overrides if named else [f"name={model}", *overrides])
    assert isinstance(config, RunConfig)
    return config


def configured_proteins(config: "RunConfig") -> "Proteins":
    """The proteins that `config` would train on."""
    from proteinlm.data import sources
    from proteinlm.planner import Proteins

    return Proteins.of(sources.corpus(config.data).splits["train"].lengths(), config.model.max_positions)


def table(plans: list["Plan"], price: float | None) -> Table:
    """One line for each plan."""
    from proteinlm.planner import gigabytes

    first = plans[0]
    machines = f"{first.config.strategy.processes} x {first.hardware.name}"
    title = f"{first.config.train.tokens:,} tokens, {first.epochs:.3g} epochs; {machines}"
    made = Table(title=title, box=None)
    for column in ("Model", "Parameters", "GFLOP/token", "Attention", "Memory", "Tokens/s", "Hours", "Cost"):
        made.add_column(column, no_wrap=True)
    for one in sorted(plans, key=lambda one: one.parameters):
        hours, gpus = one.hours, one.config.strategy.processes
        made.add_row(
            one.config.name,
            f"{one.parameters:,}",
            f"{one.flops_per_token / 1e9:.3f}",
            one.kernel.replace("head dimension ", ""),
            gigabytes(one.memory.total),
            "{:,.0f} to {:,.0f}".format(*one.speed) if one.speed else "unknown",
            "{:,.3g} to {:,.3g}".format(*hours) if hours else "unknown",
            "{:,.0f} to {:,.0f}".format(*(gpus * price * hour for hour in hours)) if hours and price else "",
        )
    return made
