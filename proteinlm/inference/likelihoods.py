"""What a language model says of residues hidden from it: pseudo-perplexity, and scores of variants.

L residues of a protein, K of them hidden one at a time, V vocabulary.
"""

import csv
import gzip
import re
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from proteinlm import vocabulary
from proteinlm.data.batches.packing import Packed
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference import tables
from proteinlm.inference.jobs import BATCHES, Job, proteins_table, resume
from proteinlm.inference.model import Model
from proteinlm.inference.proteins import Protein, Window, read
from proteinlm.storage.atomic import written_whole

SCORE = "score"
WILDTYPE = ("", "WT", "wt", "_wt")  # names of the variant without mutations
_MUTATION = re.compile(r"([A-Za-z])(-?\d+)([A-Za-z])")


def masked_log_probabilities(model: Model, letters: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Log-probabilities (K, V) float32 of each token at each of `positions` (K,), from 0, when it alone is hidden.

    `letters` (L,) uint8 are the protein's; a pass over it for each position.
    """
    tokens = torch.from_numpy(np.concatenate([[vocabulary.CLS], vocabulary.encode_bytes(letters)]).astype(np.int64))
    at_once = max(1, model.machine.batch_tokens // len(tokens))
    parts = []
    for begin in range(0, len(positions), at_once):
        hidden = torch.from_numpy(positions[begin : begin + at_once])
        copies = tokens.repeat(len(hidden))
        starts = torch.arange(len(hidden) + 1) * len(tokens)
        places = starts[:-1] + 1 + hidden
        copies[places] = vocabulary.MASK
        packed = model.machine.moved(Packed(copies, starts.int(), len(tokens), len(hidden)))
        parts.append(model.log_probabilities(packed, places.to(model.machine.device)).cpu().numpy())
    return np.concatenate(parts)


def pseudo_perplexity(model: Model, letters: np.ndarray) -> float:
    """Exponential of the mean loss of the residues, each hidden by itself (Salazar et al. 2020)."""
    residues = np.arange(len(letters))
    logs = masked_log_probabilities(model, letters, residues)[residues, vocabulary.encode_bytes(letters)]
    return float(np.exp(-logs.mean(dtype=np.float64)))


def write_pseudo_perplexities(model: Model, source: Path, output: Path | None) -> None:
    """One line for each protein in `source`."""

    def table(window: Window) -> pa.Table:
        values = [pseudo_perplexity(model, protein.letters) for protein in window]
        return proteins_table(window, {"pseudo_perplexity": pa.array(values, pa.float64())})

    _ = model.head  # its absence should not wait for the first protein
    tables.write_results(Job(source, model, table, {"of": "pseudo-perplexity"}, "scoring", _passes), output)


def _passes(protein: Protein) -> int:
    return len(protein.letters) * (len(protein.letters) + 1)


class Mutation(NamedTuple):
    position: int
    """From 0."""
    before: int
    """Token of the wild type."""
    after: int


def score_variants(
    model: Model, wildtype: Path, variants: Path, output: Path, *, column: str = "mutant", first: int = 1
) -> None:
    """Add a column ``score`` to the CSV file `variants`: higher is likelier to function.

    Masked marginals (Meier et al. 2021): the sum over a variant's mutations of log p(mutant) - log p(wild type), with
    that position of the wild type hidden; positions are hidden one at a time, as in the authors' code. The `column` has
    mutations as in ``A24G:K30R``, with the wild type's first residue numbered `first`.
    """
    _ = model.head
    protein, *others = read(wildtype, model.longest)
    if others:
        raise InputError(f"{wildtype}: {1 + len(others)} records, not the wild type alone")
    names, table = _read_csv(variants)
    if column not in names:
        raise InputError(f"{variants}: no column {column}, but {', '.join(names)}")
    mutations = []
    for line, row in enumerate(table, start=2):
        try:
            mutations.append(_mutations(row[names.index(column)], protein.letters, first))
        except InputError as error:
            raise InputError(f"{variants}: line {line}: {error}") from None
    positions = np.array(sorted({mutation.position for row in mutations for mutation in row}), dtype=np.int64)
    with resume(output, model, {"of": "variants"}) as finished:
        logs = dict(zip(positions.tolist(), _hidden_in_turn(model, protein.letters, positions, finished), strict=True))
        text = StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([*names, SCORE])
        for row, changes in zip(table, mutations, strict=True):
            value = sum(float(logs[m.position][m.after] - logs[m.position][m.before]) for m in changes)
            lines.writerow([*row, f"{value:.6g}"])
        with written_whole(output) as file:
            file.write(text.getvalue().encode())


def _hidden_in_turn(model: Model, letters: np.ndarray, positions: np.ndarray, finished) -> Iterator[np.ndarray]:
    """Log-probabilities (V,) at each position, some positions in each part."""

    def table(part: np.ndarray) -> pa.Table:
        logs = masked_log_probabilities(model, letters, part)
        return pa.table({"logs": pa.FixedSizeListArray.from_arrays(pa.array(logs.ravel()), logs.shape[1])})

    size = max(1, BATCHES * model.machine.batch_tokens // (len(letters) + 1))
    with Bar("scoring", len(positions), of_bytes=False) as bar:
        for begin in range(0, len(positions), size):
            part = positions[begin : begin + size]
            finished.add(letters.tobytes() + part.tobytes(), 0, partial(table, part))
            bar.advance(len(part))
    for done in finished:
        column = done["logs"].combine_chunks()
        yield from column.flatten().to_numpy().reshape(-1, column.type.list_size)


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows."""
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    header, *body = csv.reader(StringIO(text, newline="")) if text else [[]]
    for line, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}: line {line}: {len(row)} fields under {len(header)} names")
    return header, body


def _mutations(variant: str, letters: np.ndarray, first: int) -> list[Mutation]:
    found = []
    for name in [] if variant.strip() in WILDTYPE else re.split(r"[:;,\s]+", variant.strip()):
        match = _MUTATION.fullmatch(name)
        if match is None:
            raise InputError(f"{name!r} is no mutation such as A24G")
        before, position, after = match[1].upper(), int(match[2]) - first, match[3].upper()
        if not 0 <= position < len(letters):
            raise InputError(f"{name} is outside residues {first} to {first + len(letters) - 1} of the wild type")
        if chr(letters[position]) != before:
            raise InputError(f"{name}, but the wild type has {chr(letters[position])} there")
        found.append(Mutation(position, vocabulary.IDS[before], int(vocabulary.encode(after)[0])))
    return found
