"""Potts models saved as files, of alignments or by a neural Potts model, and the energies of whole proteins by them.

N proteins, L columns of an alignment.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from proteinlm.data.alignments.reading import Alignment, read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.formats.letters import Letters
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference import tables
from proteinlm.inference.alignments import names_of
from proteinlm.inference.memory import free_memory
from proteinlm.inference.model import Model
from proteinlm.inference.neural_potts import potts_of
from proteinlm.inference.potts import fit
from proteinlm.inference.proteins import Protein, read
from proteinlm.interop import plmc
from proteinlm.models.potts import GAP_STATE, Potts, states_of
from proteinlm.storage.atomic import own_directory, write_text
from proteinlm.storage.names import file_name
from proteinlm.storage.untrusted import read_json

SUMS = "alignments.json"
"""Beside the models: the sum of the alignment that each was fitted to, or of the protein that it was guessed from."""
AT_ONCE = 4096  # proteins


def write_couplings(paths: Sequence[Path], directory: Path, device: torch.device) -> Iterator[Path]:
    """Fit a Potts model to each alignment and write it into `directory`, by the name of its file; gives the files.

    A model is kept if it is there and was fitted to the same alignment, so that a killed command goes on.
    """
    names = names_of(paths)

    def fitted(alignment: Alignment) -> _Made:
        weights = sequence_weights(alignment.letters)
        model = fit(alignment, device, weights=weights, says_depth=True)
        return _Made(model, states_of(alignment.letters), weights, alignment.query)

    def found() -> Iterator[_Wanted]:
        for path, name in zip(paths, names, strict=True):
            alignment = read_alignment(path)
            yield name, _sum(alignment.letters), partial(fitted, alignment)

    return _write_missing(found(), directory)


def write_couplings_of_proteins(model: Model, source: Path, directory: Path, letters: str) -> Iterator[Path]:
    """Write what a neural Potts model gives of each protein in a FASTA file, as `write_couplings` does of alignments.

    The name of a file is `file_name` of its protein's; `InputError` if two have the same.
    """

    def made(protein: Protein) -> _Made:
        return _Made(potts_of(model, protein.letters), states_of(protein.letters[None]), np.ones(1), protein.letters)

    def found() -> Iterator[_Wanted]:
        for protein in read(source, model.positions, file_name, Letters(letters)):
            yield file_name(protein.name), f"{model.fingerprint} {_sum(protein.letters[None])}", partial(made, protein)

    return _write_missing(found(), directory)


class _Made(NamedTuple):
    """A Potts model, and what a file says of the rows (N, L) that it is of: states, weights (N,) and the first's letters."""

    model: Potts
    states: np.ndarray
    weights: np.ndarray
    query: np.ndarray


_Wanted = tuple[str, str, Callable[[], _Made]]
"""A name, the sum of what the model is of, and the function that makes it."""


def _write_missing(wanted: Iterable[_Wanted], directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    with own_directory(directory, "a fit of couplings"):
        file = directory / SUMS
        sums = _sums_in(file)
        for name, found, make in wanted:
            target = directory / f"{name}{plmc.SUFFIX}"
            if sums.get(name) != found or not target.is_file():
                plmc.write(target, *make())
                sums[name] = found
                write_text(file, json.dumps(sums, indent=2) + "\n")
            yield target


def _sums_in(file: Path) -> dict[str, str]:
    try:
        return read_json(file) if file.is_file() else {}
    except ValueError:  # damaged: all are fitted again
        return {}


def _sum(letters: np.ndarray) -> str:
    """The sum of rows (N, L) uint8."""
    return hashlib.sha256(f"{letters.shape[1]}\n".encode() + letters.tobytes()).hexdigest()


def load_couplings(path: Path, device: torch.device) -> plmc.Saved:
    """Read a saved model onto a device; `InputError` if it is none, or does not fit into memory."""
    if path.is_file() and 2 * path.stat().st_size > (there := free_memory(device)):  # pairs are in the file once
        raise InputError(
            f"{path}: its couplings take {2 * path.stat().st_size / 1e9:.1f} GB, there are {there / 1e9:.1f}"
        )
    model, query = plmc.read(path)
    return plmc.Saved(Potts(model.fields.to(device), model.couplings.to(device)), query)


def write_energies(
    model: Potts, query: np.ndarray, names: Sequence[str], letters: np.ndarray, output: Path | None
) -> None:
    """Write the energy of each protein (N, L) uint8, in the columns of the alignment with this query (L,) uint8.

    The energy is minus the log-probability up to a constant, in nats. The score is the energy of the query less it: the
    log-odds that `proteinlm score` gives of variants. It is empty where the query is not known.
    """
    device = model.fields.device
    reference = states_of(query)
    known = bool((reference != GAP_STATE).any())
    own = float(model.energies(torch.from_numpy(reference[None]).to(device)).double()) if known else None

    def computed() -> Iterator[pa.Table]:
        with Bar("energies", len(names), of_bytes=False) as bar:
            for begin in range(0, len(names), AT_ONCE):
                part = slice(begin, begin + AT_ONCE)
                states = torch.from_numpy(states_of(letters[part])).to(device)
                energies = model.energies(states).double().cpu().numpy()
                scores = [None] * len(energies) if own is None else (own - energies).tolist()
                yield pa.table({"id": names[part], "energy": energies, "score": pa.array(scores, pa.float64())})
                bar.advance(len(energies))

    tables.write_lines(computed(), output)
