"""Measurements, always side by side in one run because a machine's speed drifts: ``python -m experiments.bench train``.

Prints a table and writes the same figures as ``runs/bench/<what>.json`` and ``.md``.
"""

import argparse
import statistics
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.figures import report
from proteinlm.errors import InputError
from proteinlm.launch import entry

if TYPE_CHECKING:
    from proteinlm.device import TrainingDevice


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description="Measure the suite.")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    kinds = parser.add_subparsers(dest="what", required=True)
    data = kinds.add_parser("data", help="building, opening, loading and planning")
    data.add_argument("--fasta", type=Path, help="a .fasta.xz to build from; by default one is made up")
    data.add_argument("--repeats", type=int, default=3)
    for what, text in (("train", "a training step"), ("embed", "mean embeddings")):
        one = kinds.add_parser(what, help=f"{text}, beside transformers and torch")
        one.add_argument("--hidden-size", type=int, default=256)
        one.add_argument("--layers", type=int, default=8)
        one.add_argument("--heads", type=int, default=8)
        one.add_argument("--tokens", type=int, default=4352, help="at most, of a round: one micro-batch of ours")
        one.add_argument("--longest", type=int, default=1023, help="residues")
        one.add_argument("--data", type=Path, help="directory of real data; by default letters are random")
        one.add_argument("--repeats", type=int, default=5, help="rounds, after those that do not count")
        one.add_argument("--recipe", choices=("paper", "modern"), default="paper")
        one.add_argument("--threads", type=int, default=0)
    published = kinds.add_parser("published", help="mean embeddings at ESM-2's shapes, beside EsmModel")
    published.add_argument("--shape", choices=("8M", "35M", "150M"), default="8M")
    published.add_argument("--proteins", type=int, default=64)
    published.add_argument("--longest", type=int, default=1000, help="residues")
    published.add_argument("--data", type=Path, help="directory of real data; by default letters are random")
    published.add_argument("--repeats", type=int, default=3)
    published.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    published.add_argument("--threads", type=int, default=0)
    growth = kinds.add_parser("growth", help="cost over depth, width and the size of the corpus")
    growth.add_argument("--proteins", type=int, default=16)
    growth.add_argument("--longest", type=int, default=1023, help="residues")
    growth.add_argument("--repeats", type=int, default=3)
    growth.add_argument("--threads", type=int, default=0)
    scale = kinds.add_parser("scale", help="time and memory as a corpus, a cluster and a sweep grow")
    scale.add_argument(
        "--proteins", type=int, default=0, help="of the largest corpus, such as 33000000 (11 GB of disk)"
    )
    scale.add_argument("--processes", type=int, default=0, help="of the largest cluster, such as 4096")
    scale.add_argument("--rows", type=int, default=0, help="of the largest sweep, such as 10000; needs --sweep")
    scale.add_argument("--sweep", type=Path, help="a finished sweep, whose first row is taken under other names")
    tracking = kinds.add_parser("tracking", help="what tracking costs a row of a sweep")
    tracking.add_argument("--repeats", type=int, default=3)
    tracking.add_argument(
        "--backends", default="none,csv,wandb", help="what to compare; the first is what the others cost"
    )
    tracking.add_argument("overrides", nargs="*", help="Hydra overrides of the row")
    options = parser.parse_args(arguments)
    if options.what == "data":
        if options.fasta and not (options.fasta.is_file() and options.fasta.suffix == ".xz"):
            raise InputError(f"--fasta {options.fasta}: not a .fasta.xz")
        from experiments.bench.data import data as measure_data

        report("data", measure_data(options.fasta, options.repeats), options.output, "data")
    elif options.what == "growth":
        from experiments.bench.growth import growth as measure_growth

        _, described = choose_device(options.threads)
        report(
            f"growth: {described}",
            measure_growth(options.proteins, options.longest, options.repeats),
            options.output,
            "growth",
        )
    elif options.what == "published":
        embed_published(options)
    elif options.what == "scale":
        from experiments.bench import scale as growing

        if bool(options.rows) != bool(options.sweep):
            raise InputError("--rows and --sweep go together")
        figures = growing.corpus(options.proteins) if options.proteins else []
        figures += growing.ranks(options.processes) if options.processes else []
        figures += growing.sweep(options.sweep, options.rows) if options.sweep else []
        report("scale", figures, options.output, "scale")
    elif options.what == "tracking":
        from experiments.bench.tracking import compare as compare_tracking

        compare_tracking(options.repeats, options.backends.split(","), options.overrides)
    else:
        compare(options)
    return 0


def choose_device(threads: int) -> "tuple[TrainingDevice, str]":
    """The CPU with so many threads, by default one for each core, and how a title names it."""
    import torch

    from proteinlm.config import MachineConfig, StrategyConfig
    from proteinlm.device import TrainingDevice

    device = TrainingDevice.choose(MachineConfig(accelerator="cpu", threads=threads), StrategyConfig())
    return device, f"{torch.get_num_threads()} threads, {device.hardware}"


def embed_published(options: argparse.Namespace) -> None:
    """Ours beside EsmModel."""
    from experiments.bench import peers, published, workload

    _, described = choose_device(options.threads)
    sample = workload.proteins(options.proteins, options.longest, options.data)
    title = (
        f"ESM-2 {options.shape}: {len(sample)} proteins of {statistics.mean(map(len, sample)):.0f} residues "
        f"({'random letters' if options.data is None else 'real'}), {options.precision}, {described}; {peers.version()}"
    )
    figures = published.embed(options.shape, sample, options.repeats, options.precision)
    name = f"published-{options.shape}-{options.threads}-{options.precision}"
    report(title, figures, options.output, name)


def compare(options: argparse.Namespace) -> None:
    """Ours beside the peers."""
    from experiments.bench import embed, peers, train, workload
    from proteinlm.config import ModelConfig

    device, described = choose_device(options.threads)
    modern = options.recipe == "modern"
    config = ModelConfig(
        options.hidden_size,
        options.layers,
        options.heads,
        positions="rotary" if modern else "learned",
        feed_forward="gated" if modern else "gelu",
        dropout=0.0,
    )
    samples = workload.samples(train.WARMING + options.repeats, options.tokens, options.longest, options.data)
    residues = statistics.mean(map(len, chain(*samples)))
    title = (
        f"{options.what}: hidden {options.hidden_size}, {options.layers} layers, {options.heads} heads, "
        f"{options.repeats} micro-batches of {options.tokens} tokens, proteins of {residues:.0f} residues "
        f"({'random letters' if options.data is None else 'real'}), {described}; "
        f"{peers.version()}"
    )
    bf16 = device.precision == "bf16-mixed"
    measure = train.train if options.what == "train" else embed.embed
    figures = measure(config, samples, bf16)
    report(title, figures, options.output, f"{options.what}-{options.hidden_size}x{options.layers}-{options.recipe}")


if __name__ == "__main__":
    entry.command(main)
