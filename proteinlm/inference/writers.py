"""Write finished windows of embeddings or matrices to a file, piece by piece: .npz, .h5 or .arrow.

All numbers are float32. N proteins, L residues of one, H hidden size.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from proteinlm.errors import InputError
from proteinlm.inference.jobs import FinishedWindows
from proteinlm.storage.atomic import written_whole

Writer = Callable[[Path, FinishedWindows], None]


def writer(output: Path) -> Writer:
    """The function that writes a file with this suffix; raises `InputError` if there is none."""
    writers: dict[str, Writer] = {".npz": write_npz, ".h5": write_h5, ".arrow": write_arrow}
    if output.suffix not in writers:
        raise InputError(f"{output}: its name ends in none of {', '.join(writers)}")
    if output.suffix == ".h5":
        _h5py()
    return writers[output.suffix]


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


def write_h5(output: Path, finished: FinishedWindows) -> None:
    h5py = _h5py()
    partial = output.with_name(f".{output.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            _fill_h5(file, finished, h5py.string_dtype())
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)


def _fill_h5(file: Any, finished: FinishedWindows, text: Any) -> None:
    per_residue, hidden = _kind(finished)
    if per_residue:
        for name, array in _arrays(finished, hidden):
            file[name] = array
        return
    ids = file.create_dataset("ids", (finished.records,), dtype=text)
    vectors = file.create_dataset("embeddings", (finished.records, hidden), dtype="f4")
    begin = 0
    for part in finished:
        ids[begin : begin + len(part)] = part["id"].to_pylist()
        vectors[begin : begin + len(part)] = _numbers(part, hidden)
        begin += len(part)


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
