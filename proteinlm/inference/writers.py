"""Write finished windows of embeddings or matrices to a file, piece by piece: .npz, .h5 or .arrow.

All numbers are float32. N proteins, L residues of one, H hidden size.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from proteinlm.errors import InputError
from proteinlm.inference.jobs import FinishedWindows
from proteinlm.storage.atomic import written_whole

Writer = Callable[[Path, FinishedWindows], None]


def writer(output: Path, attributes: Mapping[str, str] | None = None) -> Writer:
    """The function that writes a file with this suffix; raises `InputError` if there is none.

    `attributes` describe the whole file, where its format has a place for them: .h5.
    """
    writers: dict[str, Writer] = {".npz": write_npz, ".h5": partial(write_h5, attributes or {}), ".arrow": write_arrow}
    if output.suffix not in writers:
        raise InputError(f"{output}: its name ends in none of {', '.join(writers)}")
    if output.suffix == ".h5":
        _h5py()
    return writers[output.suffix]


def stored_names(output: Path, *, by_name: bool) -> Callable[[str], str] | None:
    """The function from a protein's name to that of its array in `output`; None if arrays are not found by name.

    `by_name` says whether an .npz file has an array for each protein. Two proteins need two names there.
    """
    if output.suffix == ".h5":
        return h5_name
    return npz_name if output.suffix == ".npz" and by_name else None


def h5_name(name: str) -> str:
    """The name of a protein's dataset: HDF5 takes ``/`` for a group, ``.`` for the group itself, and no NUL."""
    return "_" if name == "." else name.replace("/", "_").replace("\0", "_")


def npz_name(name: str) -> str:
    """The name by which `numpy.load` tells arrays apart: it finds the array ``a`` by the name ``a.npy`` as well."""
    while name.endswith(".npy"):
        name = name.removesuffix(".npy")
    return name


def write_arrow(output: Path, finished: FinishedWindows) -> None:
    with written_whole(output) as file, pa.ipc.new_file(file, finished.schema) as sink:
        for part in finished:
            sink.write_table(part)


def write_npz(output: Path, finished: FinishedWindows) -> None:
    """Write ``ids`` (N,) and ``embeddings`` (N, H), or for residues an array (L, H) by the name of each protein.

    The file is that of `numpy.savez`, which needs all arrays in memory at once.
    """
    per_residue, hidden = _kind(finished)
    if per_residue:
        write_npz_arrays(output, _arrays(finished, hidden))
        return
    with written_whole(output) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        longest = max(len(name) for part in finished for name in part["id"].to_pylist())
        names = np.dtype(f"<U{longest}")
        with archive.open("ids.npy", "w", force_zip64=True) as entry:
            _write_header(entry, names, (finished.records,))
            for part in finished:
                entry.write(np.array(part["id"].to_pylist(), dtype=names).tobytes())
        with archive.open("embeddings.npy", "w", force_zip64=True) as entry:
            _write_header(entry, np.dtype("<f4"), (finished.records, hidden))
            for part in finished:
                entry.write(_numbers(part, hidden).tobytes())


def write_npz_arrays(output: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write arrays by name, one after another, as `numpy.load` reads them."""
    with written_whole(output) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def write_h5(attributes: Mapping[str, str], output: Path, finished: FinishedWindows) -> None:
    """Write a dataset (H,) or (L, H) for each protein at the root of the file, in the order of the proteins.

    Its name is `h5_name` of the protein's, whose own name is the attribute ``original_id``: the layout of bio_embeddings
    and biotrainer, which their readers and protspace open.
    """
    h5py = _h5py()
    unfinished = output.with_name(f".{output.name}.partial")
    try:
        with h5py.File(unfinished, "w", track_order=True) as file:
            file.attrs.update(attributes)
            _write_datasets(file, finished)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_datasets(file: Any, finished: FinishedWindows) -> None:
    per_residue, hidden = _kind(finished)
    for part in finished:
        ends = np.cumsum(part["length"].to_numpy())[:-1]
        numbers = _numbers(part, hidden)
        arrays = np.split(numbers, ends) if per_residue else numbers
        for name, array in zip(part["id"].to_pylist(), arrays, strict=True):
            file.create_dataset(h5_name(name), data=array).attrs["original_id"] = name


def _h5py() -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            "--out: a .h5 file needs h5py (pip install 'proteinlm[hdf5]'); .npz and .arrow need nothing"
        ) from None
    return h5py


def _kind(finished: FinishedWindows) -> tuple[bool, int]:
    """Whether there is a vector for each residue, and the hidden size."""
    kind = finished.schema.field("embedding").type
    per_residue = pa.types.is_large_list(kind)
    return per_residue, (kind.value_type if per_residue else kind).list_size


def _numbers(part: pa.Table, hidden: int) -> np.ndarray:
    """All vectors of a table, (rows or residues, H) float32."""
    column = part["embedding"].combine_chunks()
    while not pa.types.is_floating(column.type):
        column = column.flatten()
    return column.to_numpy().reshape(-1, hidden)


def _arrays(finished: FinishedWindows, hidden: int) -> Iterator[tuple[str, np.ndarray]]:
    """The name and array (L, H) of each protein."""
    for part in finished:
        ends = np.cumsum(part["length"].to_numpy())[:-1]
        yield from zip(part["id"].to_pylist(), np.split(_numbers(part, hidden), ends), strict=True)


def _write_header(entry: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the beginning of an .npy file whose content follows."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(entry, header)
