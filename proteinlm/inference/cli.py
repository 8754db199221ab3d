"""The commands that use a trained model, such as ``proteinlm embed``. Nothing heavy is imported before one runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteinlm import pretrained
from proteinlm.data.cli import LettersOption
from proteinlm.errors import InputError
from proteinlm.storage.atomic import check_output

if TYPE_CHECKING:
    import torch

    from proteinlm.inference.alignments import AlignmentModel

Fasta = Annotated[Path, typer.Argument(metavar="IN.fasta", help="Proteins, plain, .gz or .xz; - reads standard input.")]
_WEIGHTS = "Directory of weights: pretrained, fine-tuned, imported."
_POTENTIAL = "Of a Potts model: how much the residues of a pair count, by how often such residues touch."
_NEIGHBOURS = "Of a Potts model: add so much of the scores above zero of the eight pairs around."
ModelDirectory = Annotated[Path, typer.Option("--model", help=_WEIGHTS)]
OptionalModel = Annotated[
    Path, typer.Option("--model", help=_WEIGHTS, show_default="the model that comes with proteinlm")
]
Out = Annotated[Path, typer.Option("--out", help="File to write. Killed and started again, the command goes on.")]
Lines = Annotated[
    Path | None,
    typer.Option(
        "--out", help="File to write, .csv, .jsonl or, of structures, .fasta. Default: CSV to standard output."
    ),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
Precision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16-mixed; auto takes bfloat16 on a GPU that has it.")
]
STRICT = "strict"
LISTED = 20
"""The number of skipped variants that are printed."""
BatchTokens = Annotated[int, typer.Option("--batch-tokens", help="Tokens computed at once; 0: 4,096, on a GPU 32,768.")]
Residues = Annotated[
    int,
    typer.Option(
        "--window", help="Read a protein that the model is too short for in windows of so many residues. 0: refuse it."
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option("--overlap", help="Residues that neighbouring windows share.", show_default="half of the window"),
]


def embed(
    source: Fasta,
    out: Out,
    model: OptionalModel = pretrained.DIRECTORY,
    pooling: Annotated[
        str, typer.Option("--pooling", help="mean, cls, or residue: one vector of each residue.")
    ] = "mean",
    letters: LettersOption = STRICT,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
    window: Residues = 0,
    overlap: Overlap = None,
) -> None:
    """Embeddings of all proteins of a FASTA file, as .npz, .h5 or .arrow."""
    from proteinlm.inference import embeddings, writers
    from proteinlm.inference.model import load
    from proteinlm.inference.proteins import file_of

    _check_letters(letters)
    writers.writer(out)  # a mistake there should not wait for the model
    check_output(out, file_of(source))
    loaded = load(model, device=device, precision=precision, batch_tokens=batch_tokens, window=window, overlap=overlap)
    embeddings.write_embeddings(loaded, source, out, pooling, letters)


Depth = Annotated[int, typer.Option("--depth", min=1, help="Rows of an alignment that the MSA Transformer reads.")]
Rows = Annotated[str, typer.Option("--rows", help="Which rows those are: diverse, random, first.")]
Alignments = Annotated[
    list[Path] | None,
    typer.Option(
        "--alignment",
        help="Alignment: .a3m, aligned .fasta, .sto, .aln. Read by a Potts model, or by the MSA Transformer in --model.",
    ),
]


def score(
    wildtype: Annotated[Path, typer.Argument(metavar="WILDTYPE.fasta", help="The protein that was mutated.")],
    variants: Annotated[Path, typer.Argument(metavar="MUTANTS.csv", help="Variants, one a line; .gz and .xz too.")],
    out: Out,
    model: OptionalModel = pretrained.DIRECTORY,
    alignment: Annotated[
        Path | None,
        typer.Option(
            "--alignment",
            help="Score by a Potts model of this alignment of the protein, or by the MSA Transformer in --model.",
        ),
    ] = None,
    site_independent: Annotated[
        bool, typer.Option("--site-independent", help="With --alignment: leave out the couplings, as a control.")
    ] = False,
    depth: Depth = 256,
    rows: Rows = "diverse",
    column: Annotated[str, typer.Option("--column", help="Where the mutations are, as in A24G:K30R.")] = "mutant",
    column_out: Annotated[str, typer.Option("--column-out", help="Name of the column that is added.")] = "score",
    first: Annotated[int, typer.Option("--first", help="Number of the wild type's first residue.")] = 1,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out, and list, variants that are no substitutions, as K2*.")
    ] = False,
    letters: LettersOption = STRICT,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
    window: Residues = 0,
    overlap: Overlap = None,
) -> None:
    """Zero-shot effects of variants: log-odds of mutant and wild type with the position hidden (masked marginals)."""
    from proteinlm.inference import alignments, likelihoods
    from proteinlm.inference.model import Placement, load
    from proteinlm.inference.proteins import file_of

    _check_letters(letters)
    if out.suffix in (".gz", ".xz"):
        raise InputError(f"{out}: the table is written plain: leave out {out.suffix}")
    check_output(out, file_of(wildtype), variants, *([alignment] if alignment else []))
    if site_independent and not alignment:
        raise InputError("--site-independent is a model of an alignment: name one by --alignment")
    machine = Placement.choose(device, precision, batch_tokens)
    if alignment:
        _check_no_window(window, overlap)
        reads_alignments = None if model == pretrained.DIRECTORY else model
        if reads_alignments and site_independent:
            raise InputError("--site-independent is a Potts model: leave out --model")
        reader = _reader(reads_alignments, machine.device, depth, rows, couplings=not site_independent)
        score_rows = partial(alignments.score_variants, reader, alignment)
    else:
        loaded = load(
            model, device=device, precision=precision, batch_tokens=batch_tokens, window=window, overlap=overlap
        )
        score_rows = partial(likelihoods.score_variants, loaded)
    skipped = score_rows(
        wildtype,
        variants,
        out,
        column=column,
        column_out=column_out,
        first=first,
        skip_unknown=skip_unknown,
        letters=letters,
    )
    if skipped:
        more = f", and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
        typer.echo(f"no score for {len(skipped)} unknown variants: {', '.join(skipped[:LISTED])}{more}", err=True)


def pppl(
    source: Fasta,
    model: OptionalModel = pretrained.DIRECTORY,
    out: Lines = None,
    letters: LettersOption = STRICT,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
    window: Residues = 0,
    overlap: Overlap = None,
) -> None:
    """Pseudo-perplexity of each protein: every residue hidden once, a pass for each. Of UniRep: perplexity, in one pass."""
    from proteinlm.inference import likelihoods, tables
    from proteinlm.inference.model import load

    _check_letters(letters)
    if out:
        tables.check_output(out, source, states=False)
    loaded = load(model, device=device, precision=precision, batch_tokens=batch_tokens, window=window, overlap=overlap)
    likelihoods.write_pseudo_perplexities(loaded, source, out, letters)


def contacts(
    out: Out,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="IN.fasta", help="Proteins, plain, .gz or .xz; - reads standard input.", show_default=False
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help=_WEIGHTS, show_default=False)] = None,
    alignment: Alignments = None,
    potential: Annotated[float | None, typer.Option("--potential", min=0, help=_POTENTIAL, show_default="3")] = None,
    neighbours: Annotated[
        float | None, typer.Option("--neighbours", min=0, help=_NEIGHBOURS, show_default="0.25")
    ] = None,
    depth: Depth = 256,
    rows: Rows = "diverse",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="head: of a model fine-tuned for contacts. couplings: of a neural Potts model. regression, best-heads: of "
            "attention maps. auto: what fits.",
        ),
    ] = "auto",
    fit: Annotated[
        str,
        typer.Option("--fit", help="Fit the readout of attention to 20 chains of this data directory (or synthetic)."),
    ] = "",
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Directory for a picture of each map.")] = None,
    letters: LettersOption = STRICT,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
    window: Residues = 0,
    overlap: Overlap = None,
) -> None:
    """Contact maps of all proteins of a FASTA file, or of alignments: an .npz with a matrix for each."""
    from proteinlm.inference import alignments, contact_maps
    from proteinlm.inference.model import Placement

    _check_letters(letters)
    for option, given in (("--potential", potential), ("--neighbours", neighbours)):
        if given is not None and (model or not alignment):
            raise InputError(f"{option} is of a Potts model: name an alignment by --alignment, and no --model")
    if alignment:
        if source:
            raise InputError("contacts: name either proteins, or alignments by --alignment")
        _check_no_window(window, overlap)
        machine = Placement.choose(device, precision, batch_tokens)
        reader = _reader(model, machine.device, depth, rows, potential=potential, neighbours=neighbours)
        alignments.write_contacts(reader, alignment, out, pictures)
        return
    if source is None or model is None:
        raise InputError("contacts: name proteins, IN.fasta, and --model DIR; or an alignment, --alignment X.a3m")
    contact_maps.check_paths([source], out, pictures)
    maps = contact_maps.map_source(
        model, method, fit, Placement.choose(device, precision, batch_tokens), window, overlap
    )
    contact_maps.write_maps(maps, source, out, pictures, letters)


def couplings(
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="ALIGNMENT...", help="Alignments: .a3m, aligned .fasta, .sto, .aln. With --model: IN.fasta."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory. Killed and started again, the command goes on.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A neural Potts model, for each protein of IN.fasta.", show_default=False),
    ] = None,
    letters: LettersOption = STRICT,
    device: Device = "auto",
) -> None:
    """Potts models of alignments, each saved as NAME.model: what EVcouplings reads, and plmc writes."""
    from proteinlm.inference import energies
    from proteinlm.inference.model import Placement, load

    _check_letters(letters)
    if model is None:
        files = energies.write_couplings(source, out, Placement.choose(device, "fp32", 0).device)
    elif len(source) > 1:
        raise InputError("couplings: --model takes one file of proteins, IN.fasta")
    else:
        loaded = load(model, device=device, precision="fp32")
        files = energies.write_couplings_of_proteins(loaded, source[0], out, letters)
    for file in files:
        typer.echo(file)


def energies(
    source: Annotated[
        Path, typer.Argument(metavar="IN.fasta", help="Proteins in the columns of the alignment; .a3m and .sto too.")
    ],
    out: Lines = None,
    alignment: Annotated[
        Path | None, typer.Option("--alignment", help="Fit a Potts model to this alignment.", show_default=False)
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option("--couplings", help="A Potts model that `couplings` or plmc has saved.", show_default=False),
    ] = None,
    site_independent: Annotated[
        bool, typer.Option("--site-independent", help="With --alignment: leave out the couplings, as a control.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Energies of whole proteins, as designed ones, by a Potts model: the lower, the more like the alignment's."""
    from proteinlm.data.alignments.reading import read_alignment, read_in_columns
    from proteinlm.inference import energies, potts, tables
    from proteinlm.inference.model import Placement

    given = alignment or saved
    if given is None or (alignment and saved):
        raise InputError("energies: name either an alignment, --alignment X.a3m, or a saved model, --couplings X.model")
    if saved and site_independent:
        raise InputError("--site-independent is fitted to an alignment: name one by --alignment")
    if out:
        tables.check_output(out, source, states=False)
        check_output(out, given)
    machine = Placement.choose(device, "fp32", 0).device
    if alignment:
        aligned = read_alignment(alignment)
        # a mistake there should not wait for the fit
        proteins = read_in_columns(source, aligned.query, str(alignment))
        model, query = potts.fit(aligned, machine, couplings=not site_independent, says_depth=True), aligned.query
    else:
        model, query = energies.load_couplings(given, machine)
        proteins = read_in_columns(source, query, str(given))
    energies.write_energies(model, query, *proteins, out)


def score_contacts(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Directory with ProteinNet in it, or synthetic.")],
    model: ModelDirectory,
    device: Device = "auto",
) -> None:
    """Score the contacts in a model's attention: long-range precision on test chains, beside separation alone."""
    from proteinlm.inference import contact_scores
    from proteinlm.inference.model import load

    for line in contact_scores.lines(load(model, device=device, precision="fp32"), model, data):
        typer.echo(line)


def predict(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="What the model was fine-tuned for, as secondary_structure or custom.")
    ],
    source: Fasta,
    model: Annotated[Path, typer.Option("--model", help="A fine-tuning that ran with keep_weights=true.")],
    out: Lines = None,
    letters: LettersOption = STRICT,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
) -> None:
    """Predictions of a fine-tuned model, a line for each protein."""
    from proteinlm.inference import predict as fine_tuned
    from proteinlm.inference import tables
    from proteinlm.inference.model import Placement

    _check_letters(letters)
    if out:
        tables.check_output(out, source)
    loaded = fine_tuned.load(model, task, Placement.choose(device, precision, batch_tokens))
    fine_tuned.predict(loaded, source, out, letters)


def _reader(
    model: Path | None,
    device: "torch.device",
    depth: int,
    rows: str,
    *,
    couplings: bool = True,
    potential: float | None = None,
    neighbours: float | None = None,
) -> "AlignmentModel":
    """A Potts model, or the MSA Transformer in the directory `model`."""
    from proteinlm.config.checks import one_of
    from proteinlm.data.alignments.subsampling import METHODS

    one_of("--rows", rows, METHODS)
    if model is None:
        from proteinlm.inference.potts import PottsReader

        return PottsReader(device, couplings=couplings, potential=potential, neighbours=neighbours)
    from proteinlm.inference.msa import MSAReader

    return MSAReader(model, device, depth, rows)


def _check_no_window(window: int, overlap: int | None) -> None:
    if window or overlap is not None:
        raise InputError("--window and --overlap are for proteins; an alignment is read whole")


def _check_letters(letters: str) -> None:
    from proteinlm.config.checks import one_of
    from proteinlm.config.data import LETTERS

    one_of("--letters", letters, LETTERS)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (embed, score, pppl, contacts, couplings, energies, score_contacts, predict):
        app.command()(command)
