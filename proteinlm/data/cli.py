"""``proteinlm data``: build, check and show stores, and fetch published data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteinlm.errors import InputError
from proteinlm.storage.atomic import check_output
from proteinlm.storage.cache import default_cache

if TYPE_CHECKING:
    from proteinlm.data.store import Store

app = typer.Typer(no_args_is_help=True, help="Build, check and show stores of proteins; fetch published data.")
fetch_app = typer.Typer(no_args_is_help=True, help="Fetch published data.")
app.add_typer(fetch_app, name="fetch")

Root = Annotated[
    Path,
    typer.Argument(help="Directory with pretrain/pretrain_<split>.fasta[.gz|.xz], or in TAPE's layout."),
]
StoreOrRoot = Annotated[Path, typer.Argument(help="A store, or the directory that it was built from.")]
To = Annotated[Path | None, typer.Option("--to", help="Where the store goes. Default: the cache that training uses.")]
Directory = Annotated[Path, typer.Option("--to", help="Where the data go, one directory for each task.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Fetch this task; may be repeated. Default: all.")]
LettersOption = Annotated[
    str,
    typer.Option(
        "--letters",
        help="Characters that are no residues. strict: refuse; clean: drop gaps and stops at the end; "
        "unknown: also take others as [UNK].",
    ),
]
Mirror = Annotated[str, typer.Option("--from", help="Address of a mirror. Default: where TAPE's authors keep them.")]


Directory200M = Annotated[Path, typer.Option("--to", help="Where its directory goes.")]
Mirror200M = Annotated[str, typer.Option("--from", help="Address of a copy. Default: where its authors keep it.")]


@app.command()
def build(root: Root, to: To = None, letters: LettersOption = "strict") -> None:
    """Convert everything under ROOT into a store; what is already converted is kept."""
    from proteinlm.config.checks import one_of
    from proteinlm.config.data import LETTERS
    from proteinlm.data import store
    from proteinlm.data.store import building

    with _errors(), _stoppable():
        one_of("--letters", letters, LETTERS)
        target = to or building.place(root, default_cache(), letters)
        building.build(root, target, letters)
        _print(store.open(target))


@app.command()
def check(directory: StoreOrRoot) -> None:
    """Compare every byte of a store, and of its sources if they are still there, with its manifest."""
    from proteinlm.data.store import building

    with _errors():
        for task, split, records, source_is_there in building.check(_store(directory)):
            source = "as built" if source_is_there else "not there any more"
            typer.echo(f"{task} {split}: {records} records as in the manifest, source {source}")


@app.command()
def show(directory: StoreOrRoot) -> None:
    """Show the tasks and splits of a store, their sources and columns."""
    from proteinlm.data import store

    with _errors():
        _print(store.open(_store(directory)))


@app.command()
def leakage(
    root: StoreOrRoot,
    out: Annotated[Path, typer.Option("--out", help="Identity of each protein's closest relative.")] = Path(
        "relatives.arrow"
    ),
    by: Annotated[str, typer.Option("--with", help="auto, mmseqs (MMseqs2), or built-in.")] = "auto",
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels", help="A file of labels, as of FLIP, PBC or your own, whose test set is searched for too."
        ),
    ] = None,
) -> None:
    """Report the share of each test set with a close relative in the corpus, and in its task's training split."""
    from proteinlm.data import csv_labels, store
    from proteinlm.data.similarity import leakage
    from proteinlm.data.store.manifest import is_store

    if by not in ("auto", "mmseqs", "built-in"):
        raise typer.BadParameter(f"{by} is not one of auto, mmseqs, built-in", param_hint="--with")
    with _errors(), _stoppable():
        check_output(out, *_files(root), *(labels or []))
        labelled, fingerprints = {}, {}
        for file in labels or []:
            if (name := file.name.split(".")[0]) in labelled:
                raise InputError(f"--labels {file}: another file is called {name}, too")
            labelled[name], fingerprints[name] = csv_labels.test_and_training(file)
        opened = store.open(root) if is_store(root) else store.ensure(root, default_cache())
        if taken := sorted(labelled.keys() & set(opened.tasks)):
            raise InputError(f"--labels: {taken[0]} is a task of {root}, too: give the file another name")
        search, found = leakage.search(by), []
        least = [f"{each:.0%}" for each in leakage.THRESHOLDS]
        typer.echo(f"identity at least {', '.join(least)}; searched with {search.__name__.replace('_', '-')}")
        for each in leakage.closest(opened, search, labelled):
            found.append(each)
            for where, shares in leakage.shares(each).items():
                searched = not any(share != share for share in shares.values())
                percent = "  ".join(f"{share:6.1%}" for share in shares.values()) if searched else "not there"
                typer.echo(f"{each.task} {each.split} ({len(each.corpus):,} proteins), in {where:6} {percent}")
        of_store = {each.task: opened.fingerprint(each.task) for each in found if each.task not in labelled}
        leakage.save(out, found, of_store | fingerprints)
        typer.echo(f"written: {out}")


@app.command()
def align(
    queries: Annotated[Path, typer.Argument(metavar="QUERY.fasta", help="Proteins to align relatives to.")],
    corpus: Annotated[Path, typer.Option("--against", help="FASTA file of proteins to search, plain, .gz or .xz.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for one .a3m of each query.")] = Path("alignments"),
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Searches at most, each with what the last found.")
    ] = 3,
    evalue: Annotated[float, typer.Option("--evalue", help="Of a relative that is taken in.")] = 1e-3,
    coverage: Annotated[float, typer.Option("--coverage", help="Least share of the query that a row has.")] = 0.5,
) -> None:
    """Build an alignment of each query with its relatives in a corpus, as jackhmmer does; finished ones are kept."""
    from proteinlm.config.checks import above, below_one
    from proteinlm.data.alignments import building

    with _errors(), _stoppable():
        above(0, "--evalue", evalue)
        below_one("--coverage", coverage)
        search = building.Search(rounds, evalue, coverage)
        for file, rows, is_new in building.align_all(queries, corpus, out, search):
            found = f"{rows - 1:,} relatives" if rows > 1 else "no relatives: the query alone"
            typer.echo(f"{file}: {found}{'' if is_new else ', already there'}")


@fetch_app.command()
def tape(to: Directory = Path("data"), only: Only = None, mirror: Mirror = "") -> None:
    """Fetch TAPE's five tasks (120 MB, unpacked 2 GB) and its Pfam (7.7 GB, unpacked 19 GB)."""
    from proteinlm.data.fetch.tape import ADDRESS, fetch_all

    with _errors(), _stoppable():
        for task, is_new in fetch_all(to, tuple(only or ()), mirror or ADDRESS):
            typer.echo(f"{to / task}: {'fetched' if is_new else 'already there'}")


@fetch_app.command("proteinlm-200m")
def proteinlm_200m(to: Directory200M = Path("data"), mirror: Mirror200M = "") -> None:
    """Fetch the 200M model that ProteinLM's authors released, for `proteinlm import megatron`."""
    from proteinlm.data.fetch.proteinlm import ADDRESS, NAME, fetch_released

    with _errors(), _stoppable():
        is_new = fetch_released(to, mirror or ADDRESS)
        typer.echo(f"{to / NAME}: {'fetched' if is_new else 'already there'}")
        typer.echo(f"next: proteinlm import megatron {to / NAME} OUT")


@contextmanager
def _errors() -> Iterator[None]:
    """One line on standard error and exit code 2 for what the user can repair."""
    try:
        yield
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def _stoppable() -> Iterator[None]:
    """Clean up when asked to stop, by a scheduler or by Ctrl-C.

    What a signal raises is lost if it came inside one of Arrow's callbacks: a timer raises it again.
    """
    import signal

    def stop(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        raise typer.Exit(130 if number == signal.SIGINT else 143)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _store(directory: Path) -> Path:
    """The store meant by its own directory or by that of its sources."""
    from proteinlm.data.store import building, manifest

    place = building.place(directory, default_cache())
    return place if not manifest.is_store(directory) and manifest.is_store(place) else directory


def _files(root: Path) -> list[Path]:
    """The files that a store consists of, or those that one is built from."""
    from proteinlm.data.store import layout, manifest

    places = [root] if manifest.is_store(root) else [source.path for source in layout.find(root)]
    return [file for place in places for file in (place, *place.rglob("*"))]


def _print(content: "Store") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "split", "records", "residues", "source", "columns", box=None)
    for column in table.columns[2:4]:
        column.justify = "right"
    for task in content.tasks:
        for name, split in content.splits(task).items():
            columns = ", ".join(f"{column}: {kind}" for column, kind in split.columns.items())
            table.add_row(task, name, f"{split.records:,}", f"{split.residues:,}", split.source.path, columns)
    console = Console()
    console.print(f"{content.directory} (from {content.manifest.root})", soft_wrap=True)
    for task in content.tasks:
        console.print(f"{task}: fingerprint {content.fingerprint(task)}", highlight=False)
    console.print(table)
