"""``proteinlm embed`` and what else a trained model is asked. Imports nothing heavy before a command runs."""

from pathlib import Path
from typing import Annotated

import typer

Fasta = Annotated[Path, typer.Argument(metavar="IN.fasta", help="Proteins, plain, .gz or .xz; - reads standard input.")]
ModelDirectory = Annotated[
    Path, typer.Option("--model", help="Directory of weights: pretrained, fine-tuned, imported.")
]
Out = Annotated[Path, typer.Option("--out", help="File to write. Killed and started again, the command goes on.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
Precision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16-mixed; auto takes bfloat16 on a GPU that has it.")
]
BatchTokens = Annotated[int, typer.Option("--batch-tokens", help="Tokens computed at once; 0: 4,096, on a GPU 32,768.")]


def embed(
    source: Fasta,
    model: ModelDirectory,
    out: Out,
    pooling: Annotated[
        str, typer.Option("--pooling", help="mean, cls, or residue: one vector of each residue.")
    ] = "mean",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_tokens: BatchTokens = 0,
) -> None:
    """Embeddings of all proteins of a FASTA file, as .npz, .h5 or .arrow."""
    from proteinlm.inference import embeddings
    from proteinlm.inference.model import load

    embeddings.writer(out)  # a mistake there should not wait for the model
    embeddings.embed(load(model, device=device, precision=precision, batch_tokens=batch_tokens), source, out, pooling)


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    for command in (embed,):
        app.command()(command)
