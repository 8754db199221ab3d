"""The command line of the library: ``proteinlm --help``. Nothing heavy is imported before a command runs."""

import typer

from proteinlm.data import cli as data
from proteinlm.errors import InputError
from proteinlm.inference import cli as inference
from proteinlm.interop import cli as interop
from proteinlm.launch import entry
from proteinlm.planner import cli

app = typer.Typer(
    help="Protein language models: data, plans, embeddings. Training is started by `python -m experiments.pretrain`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(data.app, name="data")
app.add_typer(interop.import_app, name="import")
app.command("export")(interop.export)
inference.add_to(app)
app.command()(cli.plan)


def main() -> None:
    """Run a command; an error that a user can cause is one line and exit code 2."""
    try:
        app()
    except InputError as error:
        entry.fail(str(error))
