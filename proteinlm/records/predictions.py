"""The predictions that the scores of a stage are computed from, record by record, in one Arrow file. Needs no torch.

One row per (split, metric, record): ``value``, a list with one number for each seed; ``weight``, null for a correlation;
``target``, null for a weighted mean. A number of each residue has a row for each, and the record of the protein comes as
often. `bootstrap` says what they mean, and computes scores, intervals and paired comparisons from them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proteinlm.errors import InputError
from proteinlm.records.bootstrap import Predictions, Sample, Scores
from proteinlm.records.measures import NUMBERS, Measured
from proteinlm.records.run_directory import PREDICTIONS
from proteinlm.storage.atomic import written_whole
from proteinlm.storage.checksums import sum_of


def save(directory: Path, samples: Mapping[tuple[str, str], Sample]) -> str:
    """Write ``predictions.arrow``, whose SHA-256 is returned; samples are named by split and metric."""
    tables = [_table(split, metric, sample) for (split, metric), sample in samples.items()]
    whole = pa.concat_tables(tables)
    with written_whole(directory / PREDICTIONS) as file, pa.ipc.new_file(file, whole.schema) as writer:
        writer.write_table(whole)
    return sum_of(directory / PREDICTIONS)


def load(directory: Path) -> dict[tuple[str, str], Sample]:
    """Read what `save` wrote: the samples by split and metric."""
    file = directory / PREDICTIONS
    if not file.is_file():
        raise InputError(f"{directory}: no {PREDICTIONS} in it")
    try:
        whole = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        names = dict.fromkeys(zip(whole["split"].to_pylist(), whole["metric"].to_pylist(), strict=True))
        return {(split, metric): _sample(whole, split, metric) for split, metric in names}
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{file}: damaged: {error}") from None


def _table(split: str, metric: str, sample: Sample) -> pa.Table:
    record = sample.record[sample.owner] if isinstance(sample, Measured) else sample.record
    number = len(record)
    if isinstance(sample, Predictions | Measured):
        values, weight, target = sample.prediction, pa.nulls(number, pa.float64()), pa.array(sample.target)
    else:
        assert isinstance(sample, Scores)
        values, weight, target = sample.value, pa.array(sample.weight), pa.nulls(number, pa.float64())
    offsets = np.arange(number + 1, dtype=np.int32) * sample.seeds
    return pa.table(
        {
            "split": pa.array([split] * number),
            "metric": pa.array([metric] * number),
            "record": pa.array(record),
            "value": pa.ListArray.from_arrays(offsets, values.T.ravel()),
            "weight": weight,
            "target": target,
        }
    )


def _sample(whole: pa.Table, split: str, metric: str) -> Sample:
    rows = whole.filter((pc.field("split") == split) & (pc.field("metric") == metric))
    record = rows["record"].to_numpy()
    values = np.array(rows["value"].to_pylist(), dtype=np.float64).T  # (seeds, records)
    if rows["weight"].null_count and len(np.unique(record)) < len(record):
        numbers, owner = np.unique(record, return_inverse=True)
        return Measured(numbers, owner, values, rows["target"].to_numpy(), NUMBERS[metric])
    if rows["weight"].null_count:
        return Predictions(record, values, rows["target"].to_numpy())
    return Scores(record, values, rows["weight"].to_numpy())
