"""``python -m experiments.benchmark flip/gb1 split=two_vs_rest root=DIR``: a frozen model beside what needs no network.

Prints one table for each split, with 95 % bootstrap intervals over the test proteins, and writes it, with all predictions,
to ``output/group/name/``. A finished split is not computed again; embeddings are kept, so an interrupted run goes on.
``proteingym/substitutions`` scores the variants of all assays below ``root/proteingym`` without training.
"""

import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proteinlm import pretrained
from proteinlm.config import BenchmarkConfig
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records.run_directory import BENCHMARK

if TYPE_CHECKING:
    from experiments.benchmark.contest import Split
    from proteinlm.inference.model import Model

PROTEINGYM = "proteingym/substitutions"
ELSEWHERE = ("root", "cache", "output", "group", "name", "strategy", "batch_tokens", "part", "split", "benchmark")
"""Knobs that cannot change the result of a split."""


@entry.hydra_main("benchmark")
def command(config: BenchmarkConfig) -> None:
    entry.start("experiments.benchmark", config, run)


def main() -> None:
    sys.argv[1:] = [named(word) for word in sys.argv[1:]]
    command()


def named(word: str) -> str:
    """A word of the command line; ``flip/gb1`` alone stands for ``benchmark=flip/gb1``."""
    return f"benchmark={word}" if "/" in word and "=" not in word and not word.startswith("-") else word


def run(config: BenchmarkConfig) -> None:
    """Score one model on a benchmark, split by split or assay by assay."""
    root = Path(config.root).expanduser()
    if config.benchmark == PROTEINGYM:
        score_assays(config, root)
        return
    from experiments.benchmark.named import open_benchmark

    benchmark = open_benchmark(root, config.benchmark, config.split)
    models = _models(config)
    from experiments.benchmark.contest import Split
    from experiments.benchmark.scores import main_measure

    for name, rows in benchmark.splits.items():
        for remark in rows.remarks:
            print(f"{config.benchmark} {name}: {remark}", file=sys.stderr)
        main = main_measure(config.benchmark, rows.task.kind)
        score(config, models, Split(rows, config.train_proteins, config.test_proteins, main), name, benchmark.wildtype)


def score_assays(config: BenchmarkConfig, root: Path) -> None:
    """Score the assays of one part, and keep the averages once those of all parts are there."""
    from experiments.benchmark import by_assay, records, zero_shot

    model = _model(config, config.model.random)
    options = {"weights": [model.fingerprint], "method": config.method, "window": config.window}
    settings = f"{config.method}-window-{config.window}-{model.fingerprint[:12]}"
    directory = config.home / config.benchmark.replace("/", "_") / settings
    began, lines = time.process_time(), []
    for line in zero_shot.run(model, root, config.method, config.window, config.share, directory):
        print(line, flush=True)
        lines.append(line)
    found = zero_shot.find_assays(root)
    if scores := zero_shot.scored(found, directory):
        averages = zero_shot.averages(scores)
        by_assay.save(directory, [(assay, own.measures[by_assay.MEASURE]) for assay, own in scores])
        made = records.Record(
            **{"model": config.name, "benchmark": config.benchmark, "split": config.method, "kind": records.RANKING},
            classes=0,
            main="spearman",
            counts={"test": len(scores), "labels": sum(assay.variants for assay, _ in scores)},
            scores=[
                records.Scored(config.name, measure, average.value, *average.interval, True)
                for measure, average in averages.items()
            ],
            options=options,
            table="\n".join(lines),
            **measured(time.process_time() - began),
        )
        made.save(directory)


def _models(config: BenchmarkConfig) -> "dict[str, Model]":
    """The models to embed with, by the names of their lines in the table."""
    if not config.network:
        return {}
    models = {config.name: _model(config, config.model.random)}
    if config.control and not config.model.random:
        models[f"{config.name}, random weights, seed {config.seed}"] = _model(config, True)
    return models


def _model(config: BenchmarkConfig, is_random: bool) -> "Model":
    from experiments.benchmark.embeddings import load_model
    from proteinlm.inference.model import Placement

    machine = Placement.choose(precision=config.precision, batch_tokens=config.batch_tokens)
    path = Path(config.model.path).expanduser() if config.model.path else pretrained.DIRECTORY
    return load_model(path, is_random, config.seed, machine)


def score(config: BenchmarkConfig, models: "dict[str, Model]", split: "Split", name: str, wildtype: str) -> None:
    """Score one split, print its table, and keep it with the predictions."""
    from experiments.benchmark import contest, records, scores
    from proteinlm.storage.atomic import own_directory
    from proteinlm.storage.cache import default_cache

    directory = config.home / config.benchmark.replace("/", "_") / name
    options = {knob: value for knob, value in asdict(config).items() if knob not in ELSEWHERE}
    options |= {"model": {"random": config.model.random}, "weights": [model.fingerprint for model in models.values()]}
    with own_directory(directory, "a benchmark"):
        if (directory / BENCHMARK).exists():
            known = records.load(directory / BENCHMARK)
            if known.options != options:
                raise InputError(f"{directory} holds a result of other options: choose another name=, or remove it")
            print(known.table)
            return
        began = time.process_time()
        cache = Path(config.cache).expanduser() if config.cache else default_cache()
        predictions = {
            each: contest.model_predictions(split, model, cache / "embeddings") for each, model in models.items()
        }
        spent = time.process_time() - began
        if config.baselines or not models:
            predictions |= contest.baseline_predictions(split, wildtype)
        lines = scores.compare(split.labels, predictions, config.resamples, split.main)
        counts = {
            part: len(entries.sequences)
            for part, entries in (("train", split.train), ("valid", split.valid), ("test", split.test))
        } | {"labels": len(split.test.target)}
        said = ", ".join(f"{part} {count:,}" for part, count in counts.items() if part != "labels")
        head = f"{config.benchmark} {name}: {said} proteins, {counts['labels']:,} labels to test on"
        notes = [contest.relatives(split)] if config.relatives else []
        record = records.Record(
            model=config.name,
            benchmark=config.benchmark,
            split=name,
            kind=split.kind,
            classes=split.labels.classes,
            main=split.main,
            counts=counts,
            scores=records.scored(lines),
            options=options,
            table="\n".join([head, *notes, "", *scores.text(lines), ""]),
            **measured(spent),
        )
        records.save_predictions(directory, split.labels, predictions)
        record.save(directory)
        print(record.table)
        print(
            f"{config.name}: {record.processor_seconds:,} s of processor time, at most {record.peak_gib} GiB",
            file=sys.stderr,
        )


def measured(seconds: float) -> dict[str, Any]:
    """What a record says of this process, which took so many seconds of processor time."""
    from proteinlm.records.results import provenance

    return {
        "processor_seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "commit": provenance().commit,
    }


if __name__ == "__main__":
    main()
