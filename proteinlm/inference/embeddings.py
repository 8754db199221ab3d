"""``proteinlm embed``: embeddings of every protein of a FASTA file, as .npz, .h5 or .arrow.

In an .npz file, ``mean`` and ``cls`` give ``ids`` (N,) and ``embeddings`` (N, H), and ``residue`` an array (L, H) by the
name of each protein. An .h5 file has a dataset (H,) or (L, H) for each protein. An .arrow file has the columns ``id``,
``length`` and ``embedding``. All numbers are float32.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from proteinlm.data.formats.letters import STRICT
from proteinlm.errors import InputError
from proteinlm.inference.jobs import Job, proteins_table
from proteinlm.inference.model import POOLINGS, Model, Pooling
from proteinlm.inference.proteins import Window
from proteinlm.inference.writers import stored_names, writer


def write_embeddings(model: Model, source: Path, output: Path, pooling: str = "mean", letters: str = STRICT) -> None:
    """Write the embeddings of the proteins in `source` to `output`, or go on where an earlier attempt stopped."""
    if pooling not in POOLINGS:
        raise InputError(f"--pooling {pooling} is not one of {', '.join(POOLINGS)}")
    names = stored_names(output, by_name=pooling == "residue")
    job = Job(
        source,
        model,
        partial(table, model, pooling),
        {"pooling": pooling},
        "embedding",
        letters=letters,
        stored_name=names,
    )
    job.to_file(output, writer(output, {"model_name": model.name, "pooling": pooling}))


def table(model: Model, pooling: Pooling, window: Window) -> pa.Table:
    """The embeddings of a window as a table: for each protein a list of H numbers, or a list of such lists."""
    embedded = model.pool([protein.letters for protein in window], pooling)
    flat = pa.array(np.concatenate([array.ravel() for array in embedded]))
    vectors = pa.FixedSizeListArray.from_arrays(flat, model.config.hidden_size)
    if pooling == "residue":
        ends = np.cumsum([0, *(len(array) for array in embedded)])
        vectors = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), vectors)
    return proteins_table(window, {"embedding": vectors})
