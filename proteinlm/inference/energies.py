"""Potts models of alignments saved as files, and the energies of whole proteins by them.

N proteins, L columns of an alignment.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from proteinlm.data.alignments.reading import Alignment, read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference import tables
from proteinlm.inference.alignments import free_memory, names_of
from proteinlm.inference.potts import fit
from proteinlm.interop import plmc
from proteinlm.models.potts import GAP_STATE, Potts, states_of
from proteinlm.storage.atomic import own_directory, write_text
from proteinlm.storage.untrusted import read_json

SUMS = "alignments.json"
"""Beside the models: the sum of the alignment that each was fitted to."""
AT_ONCE = 4096  # proteins


def write_couplings(paths: Sequence[Path], directory: Path, device: torch.device) -> Iterator[Path]:
    """Fit a Potts model to each alignment and write it into `directory`, by the name of its file; gives the files.

    A model is kept if it is there and was fitted to the same alignment, so that a killed command goes on.
    """
    names = names_of(paths)
    directory.mkdir(parents=True, exist_ok=True)
    with own_directory(directory, "a fit of couplings"):
        file = directory / SUMS
        sums = _sums_in(file)
        for path, name in zip(paths, names, strict=True):
            alignment = read_alignment(path)
            target, found = directory / f"{name}{plmc.SUFFIX}", _sum(alignment)
            if sums.get(name) != found or not target.is_file():
                weights = sequence_weights(alignment.letters)
                model = fit(alignment, device, weights=weights, says_depth=True)
                plmc.write(target, model, states_of(alignment.letters), weights, alignment.query)
                sums[name] = found
                write_text(file, json.dumps(sums, indent=2) + "\n")
            yield target


def _sums_in(file: Path) -> dict[str, str]:
    try:
        return read_json(file) if file.is_file() else {}
    except ValueError:  # damaged: all are fitted again
        return {}


def _sum(alignment: Alignment) -> str:
    return hashlib.sha256(f"{alignment.columns}\n".encode() + alignment.letters.tobytes()).hexdigest()


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
