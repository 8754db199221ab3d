"""Potts models as files of plmc, which EVcouplings reads as its ``.model``; models that these tools made are read too.

The file is a run of little-endian numbers, without names: sizes, penalties, the alphabet, the rows' weights, the query,
and then of single columns and of pairs i < j the frequencies and the parameters (plmc's ``--output``, its second format).

N rows, L columns, Q states of a column.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from proteinlm.data.alignments.weights import IDENTITY
from proteinlm.errors import InputError
from proteinlm.models.potts import COUPLING_PENALTY, FIELD_PENALTY, GAP_STATE, STATES, Potts
from proteinlm.storage.atomic import written_whole
from proteinlm.vocabulary import AMINO_ACIDS

SUFFIX = ".model"
ALPHABET = b"-" + AMINO_ACIDS.encode()
"""The gap first, as these tools have it."""
_OURS = np.array([GAP_STATE, *range(GAP_STATE)])  # our states in the order of `ALPHABET`
AT_ONCE = 1024
"""Rows that are counted at once."""
_GAPS = (b"-", b".")
_INT, _FLOAT = np.dtype("<i4"), np.dtype("<f4")


class Saved(NamedTuple):
    """What a file holds, as far as it is asked here."""

    model: Potts
    query: np.ndarray
    """(L,) uint8: the letters of the alignment's first row; gaps if the file has none."""


def write(path: Path, model: Potts, states: np.ndarray, weights: np.ndarray, query: np.ndarray) -> None:
    """Write a model of rows (N, L) int64, each counted by its weight (N,), and the first row's letters (L,) uint8."""
    rows, length = states.shape
    frequencies = _frequencies(states, weights)
    fields = model.fields.cpu().numpy()[:, _OURS]
    couplings = model.couplings.cpu().numpy()
    with written_whole(path) as file:

        def put(values: object, kind: np.dtype) -> None:
            file.write(np.ascontiguousarray(values, kind).tobytes())

        put([length, STATES, rows, 0, 0], _INT)  # no row is left out; how many iterations there were is not known
        put([1 - IDENTITY, FIELD_PENALTY, COUPLING_PENALTY * (STATES - 1) * (length - 1), 0, weights.sum()], _FLOAT)
        file.write(ALPHABET)
        put(weights, _FLOAT)
        file.write(query.tobytes())
        put(np.arange(1, length + 1), _INT)
        put(frequencies.diagonal(), _FLOAT)
        put(fields, _FLOAT)
        for i in range(length - 1):
            pairs = frequencies[i * STATES : (i + 1) * STATES, (i + 1) * STATES :]
            put(pairs.reshape(STATES, -1, STATES).transpose(1, 0, 2), _FLOAT)
        for i in range(length - 1):
            put(couplings[i, :, i + 1 :][_OURS][:, :, _OURS].transpose(1, 0, 2), _FLOAT)


def _frequencies(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted share (L Q, L Q) float32 of rows with a state in a column and a state in a column, as in `ALPHABET`."""
    of_state = torch.from_numpy(np.argsort(_OURS))
    share = torch.from_numpy(weights / weights.sum()).float()
    size = states.shape[1] * STATES
    found = torch.zeros(size, size)
    for part, here in zip(torch.from_numpy(states).split(AT_ONCE), share.split(AT_ONCE), strict=True):
        hot = F.one_hot(of_state[part], STATES).flatten(1).float()
        found.addmm_((hot * here[:, None]).T, hot)
    return found.numpy()


def read(path: Path) -> Saved:
    """Read a model that plmc, EVcouplings or `write` has saved in single precision.

    A model without gaps, as plmc makes it by default, gives gaps no energy. Raises `InputError` for another file.
    """
    try:
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:  # ValueError: empty
        raise InputError(f"{path}: {error.strerror if isinstance(error, OSError) else 'an empty file'}") from None
    refusal = InputError(f"{path}: not a Potts model of plmc or EVcouplings in single precision")
    if len(content) < 20:
        raise refusal
    length, q, valid, invalid, _ = content[:20].view(_INT).tolist()
    sizes = [20, 20, q, 4 * (valid + invalid), length, 4 * length, 4 * length * q, 4 * length * q]
    pairs = 2 * length * (length - 1) * q * q  # bytes, of i < j
    if min(length, q, valid + 1, invalid + 1) < 1 or sum(sizes) + 2 * pairs != len(content):
        raise refusal
    ends = [*itertools.accumulate(sizes)]
    _, _, alphabet, _, query, _, _, fields = np.split(content[: ends[-1]], ends[:-1])
    symbols = alphabet.tobytes().decode("latin-1")
    states = [GAP_STATE if symbol.encode("latin-1") in _GAPS else AMINO_ACIDS.find(symbol) for symbol in symbols]
    if -1 in states or len(set(states)) < q or not {*range(GAP_STATE)} <= {*states}:
        raise InputError(f"{path}: its letters {symbols!r} are not the 20 amino acids, with a gap or without")
    model = Potts(torch.zeros(length, STATES), torch.zeros(length, STATES, length, STATES))
    model.fields[:, states] = torch.from_numpy(np.frombuffer(fields.tobytes(), _FLOAT).reshape(length, q).copy())
    begin = ends[-1] + pairs
    for i in range(length - 1):
        size = 4 * (length - 1 - i) * q * q
        block = np.frombuffer(content[begin : begin + size].tobytes(), _FLOAT).reshape(-1, q, q)  # [j, a of i, b of j]
        begin += size
        whole = torch.zeros(length - 1 - i, STATES, STATES)
        whole[np.ix_(range(len(block)), states, states)] = torch.from_numpy(block.copy())
        model.couplings[i, :, i + 1 :] = whole.permute(1, 0, 2)
        model.couplings[i + 1 :, :, i] = whole.permute(0, 2, 1)
    if not (model.fields.isfinite().all() and model.couplings.isfinite().all()):
        raise InputError(f"{path}: damaged: a parameter is no finite number")
    return Saved(model, np.array(query))
