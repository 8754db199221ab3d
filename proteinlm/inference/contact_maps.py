"""``proteinlm contacts``: a contact map (L, L) of each protein, as .npz, and pictures of the maps.

A model that was fine-tuned for contacts gives the probabilities of its head, and a neural Potts model the norms of its
couplings; for any other model the maps are read off its attention.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from torch import Tensor

from proteinlm import checkpoint
from proteinlm.data.batches.packing import pack_letters
from proteinlm.data.formats.letters import STRICT
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts, predict
from proteinlm.inference.jobs import FinishedWindows, Job, proteins_table
from proteinlm.inference.model import LoadedModel, Model, Placement
from proteinlm.inference.neural_potts import potts_of
from proteinlm.inference.predict import FineTuned
from proteinlm.inference.proteins import Protein, Window, file_of
from proteinlm.inference.stretches import Stretches, mean_of_maps
from proteinlm.inference.writers import npz_name, write_npz_arrays
from proteinlm.storage.atomic import check_output, written_whole
from proteinlm.storage.names import shortened

METHODS = ("auto", "head", "couplings", *attention_contacts.METHODS)


class Source(NamedTuple):
    """A model, and the function that makes its contact maps."""

    model: LoadedModel
    read: Callable[[np.ndarray], Tensor]
    """The function from letters (L,) uint8 to a map (L, L)."""
    settings: dict[str, object]
    """The settings that the maps depend on besides the model."""

    def matrix(self, letters: np.ndarray) -> np.ndarray:
        """The map (L, L) float32 of a protein, which may be too long to be read whole."""
        stretches = self.model.stretches_of(len(letters))
        if len(stretches) == 1:
            return self.read(letters).float().cpu().numpy()
        return mean_of_maps(lambda part: self.read(letters[part]).float().cpu().numpy(), stretches)


def map_source(
    directory: Path, method: str, fit: str, machine: Placement, window: int = 0, overlap: int | None = None
) -> Source:
    """Load the model in `directory` and choose how its contact maps are made.

    ``head`` is for models fine-tuned for contacts, and ``couplings`` for neural Potts models; ``auto`` chooses either where
    it fits. The scores of couplings are no probabilities. ``regression`` and ``best-heads`` read
    attention maps; if `fit` names proteins, the readout is fitted to them first. A protein that is too long for the model
    is read in stretches of `window` residues, if that is not 0: its map is the mean of theirs, and nan for pairs that no
    stretch contains. Raises `InputError` for an unknown method, or one that the model does not have, and as
    `Stretches.choose`.
    """
    if method not in METHODS:
        raise InputError(f"--method {method} is not one of {', '.join(METHODS)}")
    if method == "auto" and _is_contact_model(directory):
        method = "head"
    if method == "head":
        if fit:
            raise InputError("--fit is for maps of attention; --method head has its own weights")
        tuned = predict.load(directory, "contact", machine)
        tuned.stretches = Stretches.choose(window, overlap, tuned.positions)
        return Source(tuned, lambda letters: _by_head(tuned, letters), {"of": "contacts", "method": method})
    model = Model(checkpoint.load_weights(directory), machine)
    model.stretches = Stretches.choose(window, overlap, model.positions)
    if method == "couplings" or (method == "auto" and model.neural_potts):
        if fit:
            raise InputError("--fit is for maps of attention; a neural Potts model has its own weights")
        from_couplings: dict[str, object] = {"of": "contacts", "method": "couplings"}
        return Source(model, lambda letters: potts_of(model, letters).contacts(), from_couplings)
    fitted = attention_contacts.fit_readout(model, directory, fit) if fit else None
    readout = fitted or attention_contacts.load(model, directory)
    method = "regression" if method == "auto" else method
    read = readout.probabilities if method == "regression" else readout.mean_of_best
    settings = {"of": "contacts", "method": method, "readout": asdict(readout)}
    return Source(model, lambda letters: read(model, letters), settings)


def check_paths(proteins: Sequence[Path], output: Path, pictures: Path | None) -> None:
    """Raise `InputError` if maps of `proteins` cannot be written to `output`, or pictures into `pictures`."""
    if output.suffix != ".npz":
        raise InputError(f"{output}: its name does not end in .npz")
    check_output(output, *map(file_of, proteins))
    if pictures and (pictures.resolve() == output.resolve() or (pictures.exists() and not pictures.is_dir())):
        raise InputError(f"--pictures {pictures}: not a directory")


def write_maps(maps: Source, proteins: Path, output: Path, pictures: Path | None, letters: str = STRICT) -> None:
    """Write the maps of `proteins` to `output`, and a picture of each into the directory `pictures` if it is given."""
    check_paths([proteins], output, pictures)

    def table(window: Window) -> pa.Table:
        flat = [maps.matrix(protein.letters).ravel() for protein in window]
        return proteins_table(window, {"map": pa.array(flat, pa.large_list(pa.float32()))})

    job = Job(proteins, maps.model, table, maps.settings, "contacts", _pairs, letters, npz_name)
    job.to_file(output, partial(write_matrices, pictures))


def write_matrices(pictures: Path | None, path: Path, finished: FinishedWindows) -> None:
    """Write finished maps, rows of ``id``, ``length`` and ``map``, to `path`, and a picture of each into `pictures`."""
    write_npz_arrays(path, _matrices(finished))
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        for name, matrix in _matrices(finished):
            _draw(name, matrix, pictures / f"{shortened(quote(name, safe='|'))}.png")


def _pairs(protein: Protein) -> int:
    return len(protein.letters) ** 2


def _is_contact_model(directory: Path) -> bool:
    try:
        return predict.task_of(directory).name == "contact"
    except InputError:
        return False


def _by_head(model: FineTuned, letters: np.ndarray) -> Tensor:
    (logits,) = model.output(model.machine.to_device(pack_letters([letters])))
    return logits.sigmoid()


def _matrices(finished: FinishedWindows) -> Iterator[tuple[str, np.ndarray]]:
    for part in finished:
        for row in range(len(part)):
            length = part["length"][row].as_py()
            yield part["id"][row].as_py(), part["map"][row].values.to_numpy().reshape(length, length)


def _draw(name: str, matrix: np.ndarray, path: Path) -> None:
    """Draw a map, with residues counted from 1."""
    from matplotlib.figure import Figure

    length = len(matrix)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="Greys", origin="lower", extent=(0.5, length + 0.5, 0.5, length + 0.5))
    axes.set(xlabel="residue", ylabel="residue")
    axes.set_title(name if len(name) <= 60 else f"{name[:57]}...", parse_math=False)  # $ is a letter
    figure.colorbar(image, ax=axes)
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=150)
