"""Whether a table's numbers are what its saved predictions give, with no model at hand. Imports no torch."""

import json
from collections.abc import Iterator
from math import exp, isnan
from pathlib import Path

from proteinlm.config import FinetuneConfig, StageConfig, digest, relevant
from proteinlm.errors import InputError
from proteinlm.records import predictions, results, run_directory
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.results import Result, Score
from proteinlm.storage.checksums import sum_of
from proteinlm.storage.untrusted import read_yaml

PERPLEXITY = "perplexity"


def audit(directory: Path) -> Iterator[tuple[Path, int, list[str]]]:
    """Of each stage below `directory`: its place, the scores that were computed again, and what does not agree."""
    for file in sorted(directory.rglob(results.RESULT)):
        yield file.parent, *_stage(file.parent)


def _stage(place: Path) -> tuple[int, list[str]]:
    try:
        result = results.load(place / results.RESULT)
        found = [*_config(place, result), *_start(place, result)]
        if not result.predictions:
            return 0, [*found, "it does not say which predictions its scores were made of"]
        if sum_of(place / run_directory.PREDICTIONS) != result.predictions:
            found.append(f"{run_directory.PREDICTIONS} is not the one that {results.RESULT} names")
        samples = predictions.load(place)
    except (InputError, OSError) as error:
        return 0, [str(error)]
    again = {(split, metric): _score(sample, metric) for (split, metric), sample in samples.items()}
    for score in result.scores:
        values = again.pop((score.split, score.metric), None)
        if values is None:
            found.append(f"{score.split} {score.metric}: no predictions")
        elif not _same(values, (score.value, score.low, score.high, score.n)):
            found.append(f"{score.split} {score.metric} is {score.value:.6g}, its predictions give {values[0]:.6g}")
    found += [f"{split} {metric}: predictions without a score" for split, metric in again]
    return len(result.scores), found


def _score(sample: Sample, metric: str) -> tuple[float, float | None, float | None, int]:
    """Value, interval and number of proteins, as `Score` has them."""
    low, high = bootstrap(sample)
    if metric == PERPLEXITY:
        return exp(sample.estimate()), exp(low), exp(high), sample.n
    return sample.estimate(), None if isnan(low) else low, None if isnan(high) else high, sample.n


def _same(ours: tuple, theirs: tuple) -> bool:
    """To the last bits, in which processors may sum otherwise."""
    return all(
        one == other
        or (one is not None and other is not None and abs(one - other) <= 1e-9 * max(1, abs(other)))
        or (one != one and other != other)  # both undefined
        for one, other in zip(ours, theirs, strict=True)
    )


def _config(place: Path, result: Result) -> Iterator[str]:
    values = read_yaml(place / results.CONFIG)
    assert isinstance(values, dict)
    inputs = values.pop("inputs", {})
    irrelevant = FinetuneConfig.IRRELEVANT if "seeds" in values else StageConfig.IRRELEVANT
    if digest(relevant(values, irrelevant)) != result.config:
        yield f"{results.CONFIG} is not the config {result.config} of {results.RESULT}"
    if inputs.get("data") != result.data or inputs.get("start", "scratch") != result.start:
        yield f"{results.CONFIG} names other data or another start than {results.RESULT}"


def _start(place: Path, result: Result) -> Iterator[str]:
    """The weights that were fine-tuned, if the row still has them."""
    file = place.parent / "pretrain" / run_directory.MODEL / run_directory.WEIGHTS
    if result.start != "scratch" and file.is_file() and not sum_of(file).startswith(result.start):
        yield f"it started from the weights {result.start}, which {file} does not hold"


def table(directory: Path, made: dict[str, object]) -> list[str]:
    """What ``table7.json`` says otherwise than a table `made` now."""
    file = directory / "table7.json"
    if not file.is_file():
        return []
    return [] if json.loads(file.read_text()) == json.loads(json.dumps(made)) else [f"{file} says otherwise now"]


def recompute(task: str, split: str, metric: str, sample: Sample) -> Score:
    """The score of a sample."""
    return Score(task, split, metric, *_score(sample, metric))
