"""The command line: ``proteinlm --help``. Nothing heavy is imported before a command runs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from proteinlm.data import cli as data
from proteinlm.errors import InputError
from proteinlm.inference import cli as inference
from proteinlm.interop import cli as interop
from proteinlm.launch import entry
from proteinlm.planner import cli as planner
from proteinlm.training import cli as training

REPOSITORY = Path(__file__).parents[1]
EXPERIMENTS = {
    "sweep": "Run all rows of the depth/width table side by side, then print the table.",
    "table7": "Print the table of a sweep from its records.",
    "figures": "Draw the figures of a sweep.",
    "report": "Make the page about a sweep.",
}
"""Commands of the repository, which an installed wheel does not carry."""

app = typer.Typer(
    help="Protein language models: train them, plan runs, and ask trained models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _add(name: str, help: str, run: Callable[[list[str]], None]) -> None:
    """Add a command that gets all its words, ``--help`` included."""

    def command(context: typer.Context) -> None:
        run(context.args)

    all_words = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name, help=help, context_settings=all_words, add_help_option=False)(command)


def _stage(name: str) -> Callable[[list[str]], None]:
    def run(words: list[str]) -> None:
        sys.argv = [f"proteinlm {name}", *words]  # where Hydra reads them
        training.COMMANDS[name]()

    return run


def _experiment(name: str) -> Callable[[list[str]], None]:
    def run(words: list[str]) -> None:
        if not (REPOSITORY / "experiments").is_dir():
            raise InputError(f"proteinlm {name} runs in the repository only: an installed package has no experiments")
        paths = filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))
        # the working directory may have a package called experiments too
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        os.execve(sys.executable, [sys.executable, "-m", f"experiments.{name}", *words], environment)

    return run


for name, command in training.COMMANDS.items():
    _add(name, (command.__doc__ or "").replace("``", "`"), _stage(name))
app.command()(planner.plan)
app.add_typer(data.app, name="data")
inference.add_to(app)
app.add_typer(interop.import_app, name="import")
app.command("export")(interop.export)
for name, help in EXPERIMENTS.items():
    _add(name, f"{help} In the repository only.", _experiment(name))


def main() -> None:
    """Run a command; an error that a user can cause is one line and exit code 2."""
    try:
        app()
    except InputError as error:
        entry.fail(str(error))
