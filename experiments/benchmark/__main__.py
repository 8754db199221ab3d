"""``python -m experiments.benchmark flip/gb1 split=two_vs_rest root=DIR``: a frozen model beside what needs no network.

Prints one table for each split, with 95 % bootstrap intervals over the test proteins, and writes it, with all predictions,
below ``output``. A finished split is not computed again; embeddings are kept, so an interrupted run goes on.
``proteingym/substitutions`` scores the variants of all assays below ``root/proteingym`` without training.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from proteinlm import pretrained
from proteinlm.config.checks import at_least, one_of
from proteinlm.errors import InputError, first_line
from proteinlm.launch import entry, signals

if TYPE_CHECKING:
    from experiments.benchmark.contest import Split
    from proteinlm.inference.model import Model


PROTEINGYM = "proteingym/substitutions"


@dataclass
class ModelOptions:
    """The model that is embedded with."""

    path: str = str(pretrained.DIRECTORY)
    """The directory of its weights; by default those that come with the suite. Empty: what needs no network alone."""
    random: bool = False
    """Take random weights of the same shape."""


@dataclass
class Options:
    """The words after the name of the benchmark."""

    root: str = "benchmarks"
    """The directory that has ``flip/NAME_splits.zip``, ``pbc/NAME.fasta`` and ``proteingym/DMS_substitutions.csv``."""
    split: str = ""
    """One split; by default all."""
    model: ModelOptions = field(default_factory=ModelOptions)
    control: bool = False
    """Compare with random weights of the same shape, too."""
    baselines: bool = True
    """Compare with what needs no network."""
    train_proteins: int = 0
    """At most so many proteins to train on, and for validation, mostly the same in all splits; 0: all."""
    test_proteins: int = 0
    """Likewise to test on; 0: all, as a result should."""
    relatives: bool = False
    """Say how many test proteins have a close relative among those to train on (`proteinlm.data.similarity.leakage`)."""
    resamples: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of random weights."""
    method: str = "masked_marginals"
    """Of ProteinGym: ``masked_marginals``, ``wildtype_marginals`` or ``pseudo_likelihood``."""
    window: int = 1022
    """Of ProteinGym: residues around a mutation that the model sees of a longer protein."""
    part: str = "1/1"
    """Of ProteinGym: ``3/16`` scores each sixteenth assay from the third on, so that sixteen jobs share them."""
    precision: str = "auto"
    batch_tokens: int = 0
    """Tokens that are embedded at once; 0 chooses."""
    cache: str = ""
    """Where embeddings are kept; by default ``$PROTEINLM_CACHE``, or ``~/.cache/proteinlm``."""
    output: str = "runs/benchmarks"

    def __post_init__(self) -> None:
        for knob in ("train_proteins", "test_proteins", "seed", "batch_tokens"):
            at_least(0, knob, getattr(self, knob))
        at_least(20, "resamples", self.resamples)
        at_least(2, "window", self.window)
        one_of("method", self.method, ("masked_marginals", "wildtype_marginals", "pseudo_likelihood"))
        number, _, count = self.part.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"part={self.part} is not as in 3/16")

    @property
    def share(self) -> tuple[int, int]:
        """The number of `part`, from 1, and how many there are."""
        number, _, count = self.part.partition("/")
        return int(number), int(count)


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(__doc__, "Words and their defaults:", OmegaConf.to_yaml(OmegaConf.structured(Options)), sep="\n")
        return 0
    options = parse(words[1:])
    if words[0] == PROTEINGYM:
        from experiments.benchmark import zero_shot

        model = _model(options)
        name = (
            f"random-weights-seed-{options.seed}" if options.model.random else f"{model.name}-{model.fingerprint[:12]}"
        )
        output = Path(options.output) / "proteingym" / f"{name}-{options.method}-window-{options.window}"
        for line in zero_shot.run(
            model, Path(options.root).expanduser(), options.method, options.window, options.share, output
        ):
            print(line, flush=True)
        return 0
    from experiments.benchmark.named import open_benchmark

    benchmark = open_benchmark(Path(options.root).expanduser(), words[0], options.split)
    models = _models(options)
    from experiments.benchmark.contest import Split

    for name, rows in benchmark.splits.items():
        for remark in rows.remarks:
            print(f"{words[0]} {name}: {remark}", file=sys.stderr)
        split = Split(rows, options.train_proteins, options.test_proteins)
        _run(options, models, split, f"{words[0]} {name}", benchmark.wildtype)
    return 0


def parse(words: list[str]) -> Options:
    """The options that ``knob=value`` words say; raises `InputError` for a knob or a value that there is not."""
    config = OmegaConf.structured(Options)
    for word in words:
        knob, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not a word such as split=two_vs_rest")
        try:
            OmegaConf.update(config, knob, value)
        except OmegaConfBaseException as error:
            raise InputError(f"{word}: {first_line(error)}") from None
    options = OmegaConf.to_object(config)
    assert isinstance(options, Options)
    return options


def _models(options: Options) -> "dict[str, Model]":
    """The models to embed with, by the names of their lines in the table."""
    if not options.model.path:
        return {}
    model = _model(options)
    drawn = f"random weights, seed {options.seed}"
    if options.model.random:
        return {drawn: model}
    control = replace(options, model=replace(options.model, random=True))
    return {model.name: model, **({drawn: _model(control)} if options.control else {})}


def _model(options: Options) -> "Model":
    from experiments.benchmark.embeddings import load_model
    from proteinlm.inference.model import Placement

    machine = Placement.choose(precision=options.precision, batch_tokens=options.batch_tokens)
    return load_model(Path(options.model.path).expanduser(), options.model.random, options.seed, machine)


def _run(options: Options, models: "dict[str, Model]", split: "Split", title: str, wildtype: str) -> None:
    """Score one split, print its table, and keep it with the predictions."""
    import numpy as np

    from experiments.benchmark import contest
    from proteinlm.records.results import provenance
    from proteinlm.storage.atomic import own_directory, write_text, written_whole
    from proteinlm.storage.cache import default_cache

    name = next(iter(models), "without a network")
    identity = {
        **{
            knob: value
            for knob, value in asdict(options).items()
            if knob not in ("root", "cache", "output", "batch_tokens")
        }
    }
    identity |= {"title": title, "weights": [model.fingerprint for model in models.values()], "model": name}
    directory = (
        Path(options.output) / name.replace(" ", "-").replace(",", "") / title.replace("/", "_").replace(" ", "-")
    )
    with own_directory(directory, "a benchmark"):
        result = directory / "result.json"
        if result.exists():
            known = json.loads(result.read_text())
            if known["options"] != identity:
                raise InputError(f"{directory} holds a result of other options: choose another output=, or remove it")
            print(known["table"])
            return
        began = time.process_time()
        cache = Path(options.cache).expanduser() if options.cache else default_cache()
        predictions = {
            each: contest.model_predictions(split, model, cache / "embeddings") for each, model in models.items()
        }
        spent = time.process_time() - began
        if options.baselines or not models:
            predictions |= contest.baseline_predictions(split, wildtype)
        lines = contest.compare(split, predictions, options.resamples)
        counts = ", ".join(
            f"{part} {len(entries.sequences):,}"
            for part, entries in (("train", split.train), ("valid", split.valid), ("test", split.test))
        )
        head = f"{title}: {counts} proteins, {len(split.test.target):,} labels to test on"
        notes = [contest.relatives(split)] if options.relatives else []
        table = "\n".join([head, *notes, "", *contest.text(lines), ""])
        with written_whole(directory / "predictions.npz") as file:
            np.savez(file, allow_pickle=False, owner=split.test.owner, target=split.test.target, **predictions)
        record = {
            "options": identity,
            "table": table,
            "scores": {line.name: {"ties": line.ties, **line.scores} for line in lines},
            "processor_seconds": round(spent, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "commit": provenance().commit,
        }
        write_text(result, json.dumps(record, indent=2).replace("NaN", "null") + "\n")
        print(table)
        print(
            f"{name}: {record['processor_seconds']:,} s of processor time, at most {record['peak_gib']} GiB",
            file=sys.stderr,
        )


if __name__ == "__main__":
    signals.install()
    entry.command(main)
