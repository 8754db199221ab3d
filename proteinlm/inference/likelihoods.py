"""Pseudo-perplexities and scores of variants: a language model's likelihoods of residues that are hidden from it.

L residues of a protein, K of them hidden one at a time, V vocabulary.
"""

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from proteinlm import vocabulary
from proteinlm.data.batches.packing import Packed
from proteinlm.data.formats.letters import STRICT, Letters
from proteinlm.data.formats.table import Table, read_table
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference import tables
from proteinlm.inference.jobs import BATCHES, FinishedWindows, Job, proteins_table, resume
from proteinlm.inference.model import Model
from proteinlm.inference.neural_potts import log_likelihoods, potts_of
from proteinlm.inference.proteins import Protein, Window, read
from proteinlm.inference.stretches import mean_at_positions
from proteinlm.inference.variants import SEQUENCE, Mutation, UnknownVariant, check_sequence, mutations
from proteinlm.storage.atomic import written_whole

SCORE = "score"


def masked_log_probabilities(model: Model, letters: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The log-probabilities (K, V) float32 of each token at each of `positions` (K,), from 0, when it alone is hidden.

    `letters` (L,) uint8 are those of the protein; it takes one pass over them for each position. Of a protein that is
    read in stretches, they are means over the stretches that contain the position, a pass for each.
    """
    stretches = model.stretches_of(len(letters))
    if len(stretches) == 1:
        return _in_turn(model, letters, positions)
    return mean_at_positions(lambda part, inside: _in_turn(model, letters[part], inside), positions, stretches)


def _in_turn(model: Model, letters: np.ndarray, positions: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(np.concatenate([[vocabulary.CLS], vocabulary.encode_bytes(letters)]).astype(np.int64))
    at_once = max(1, model.machine.batch_tokens // len(tokens))
    parts = []
    for begin in range(0, len(positions), at_once):
        hidden = torch.from_numpy(positions[begin : begin + at_once])
        copies = tokens.repeat(len(hidden))
        starts = torch.arange(len(hidden) + 1) * len(tokens)
        places = starts[:-1] + 1 + hidden
        copies[places] = vocabulary.MASK
        packed = model.machine.to_device(Packed(copies, starts.int(), len(tokens), len(hidden)))
        parts.append(model.log_probabilities(packed, places.to(model.machine.device)).cpu().numpy())
    return np.concatenate(parts)


def pseudo_perplexity(model: Model, letters: np.ndarray) -> float:
    """The exponential of the mean loss of the residues, each hidden by itself (Salazar et al. 2020).

    A residue read as [UNK] has no likelihood: it is left out of the mean, which is nan if no other is there.
    """
    residues = np.flatnonzero(letters != ord(vocabulary.UNKNOWN_LETTER))
    if not len(residues):
        return float("nan")
    tokens = vocabulary.encode_bytes(letters)[residues]
    logs = masked_log_probabilities(model, letters, residues)[np.arange(len(residues)), tokens]
    return float(np.exp(-logs.mean(dtype=np.float64)))


def write_pseudo_perplexities(model: Model, source: Path, output: Path | None, letters: str = STRICT) -> None:
    """Write one line for each protein in `source`.

    A model that predicts the next residue (UniRep) hides none: its column ``perplexity`` is the exponential of the mean
    loss of the residues, each from those before it.
    """
    if model.next_residue:
        job = Job(source, model, partial(_perplexities, model), {"of": "perplexity"}, "scoring", letters=letters)
        tables.write_results(job, output)
        return

    def table(window: Window) -> pa.Table:
        values = [pseudo_perplexity(model, protein.letters) for protein in window]
        return proteins_table(window, {"pseudo_perplexity": pa.array(values, pa.float64())})

    _ = model.head  # its absence should not wait for the first protein
    job = Job(source, model, table, {"of": "pseudo-perplexity"}, "scoring", _passes, letters)
    tables.write_results(job, output)


def _perplexities(model: Model, window: Window) -> pa.Table:
    logs = model.log_likelihoods([protein.letters for protein in window])
    values = np.exp(-logs / [len(protein.letters) for protein in window])
    return proteins_table(window, {"perplexity": pa.array(values, pa.float64())})


def _passes(protein: Protein) -> int:
    return len(protein.letters) * (len(protein.letters) + 1)


def score_variants(
    model: Model,
    wildtype: Path,
    variants: Path,
    output: Path,
    *,
    column: str = "mutant",
    column_out: str = SCORE,
    first: int = 1,
    skip_unknown: bool = False,
    letters: str = STRICT,
) -> list[str]:
    """Write the table `variants` with a further column `column_out`: higher is likelier to function.

    Masked marginals (Meier et al. 2021): the sum over a variant's mutations of log p(mutant) - log p(wild type), with
    that position of the wild type hidden; positions are hidden one at a time, as in the authors' code. The `column` has
    mutations as in ``A24G:K30R``, with the wild type's first residue numbered `first`. A column ``mutated_sequence``
    must agree with it.

    `skip_unknown` leaves the score empty for variants that are no substitutions, which are returned with their lines;
    without it they raise `InputError`, as all other errors do, before anything is computed.

    A model that predicts the next residue (UniRep) scores by whole proteins instead: log p(variant) - log p(wild type).
    So does a neural Potts model, by the couplings that it gives the wild type.
    """
    by_whole = model.neural_potts or model.next_residue
    _ = by_whole or model.head
    wanted = read_variants(
        wildtype,
        variants,
        model.longest,
        column=column,
        column_out=column_out,
        first=first,
        skip_unknown=skip_unknown,
        letters=letters,
        advice=model.advice,
    )
    if by_whole and len(wanted.wildtype) > model.positions:
        raise InputError(f"{wildtype}: {len(wanted.wildtype)} residues, and {model.origin} scores no parts of proteins")
    scored = _by_whole_proteins if by_whole else _by_hidden_positions
    with resume(output, model, {"of": "variants"}) as finished:
        write_scores(wanted, scored(model, wanted, finished), output, column_out)
    return wanted.skipped


class Variants(NamedTuple):
    """A table of variants that was checked against its wild type."""

    wildtype: np.ndarray
    """(L,) uint8."""
    table: Table
    changes: list[list[Mutation] | None]
    """The mutations of each row; None if it is no list of substitutions."""
    skipped: list[str]
    """Which rows these are."""

    @property
    def positions(self) -> np.ndarray:
        """The places that any variant changes, from 0, each once in ascending order."""
        return np.array(sorted({m.position for row in self.changes for m in row or ()}), dtype=np.int64)


def read_variants(
    wildtype: Path,
    variants: Path,
    longest: int,
    *,
    column: str,
    column_out: str,
    first: int,
    skip_unknown: bool,
    letters: str,
    advice: str = "",
) -> Variants:
    """Read a wild type of at most `longest` residues, and the table of its variants, as `score_variants` says.

    `advice` ends the error of a longer one.
    """
    reading = Letters(letters)
    protein, *others = read(wildtype, longest, letters=reading, advice=advice)
    if summary := reading.summary():
        print(f"{wildtype}: {summary}", file=sys.stderr)
    if others:
        raise InputError(f"{wildtype}: {1 + len(others)} records, not the wild type alone")
    table = read_table(variants, column)
    if column_out in table.names:
        raise InputError(f"{variants}: has a column {column_out} already: name another by --column-out")
    names = table.column(column)
    sequences = table.column(SEQUENCE) if SEQUENCE in table.names else [""] * len(names)
    changes: list[list[Mutation] | None] = []
    skipped = []
    for line, name, sequence in zip(table.lines, names, sequences, strict=True):
        try:
            changes.append(mutations(name, protein.letters, first))
            if sequence.strip():
                check_sequence(sequence, protein.letters, changes[-1] or [], first)
        except UnknownVariant as error:
            if not skip_unknown:
                raise InputError(f"{variants}: line {line}: {error}; --skip-unknown leaves such out") from None
            changes.append(None)
            skipped.append(f"line {line}: {name.strip()}")
        except InputError as error:
            raise InputError(f"{variants}: line {line}: {error}") from None
    return Variants(protein.letters, table, changes, skipped)


def write_scores(variants: Variants, scores: Sequence[float | None], output: Path, column_out: str) -> None:
    """Write the table with a further column of scores, empty where there is none."""
    text = StringIO()
    writer = csv.writer(text, delimiter=variants.table.delimiter, lineterminator="\n")
    writer.writerow([*variants.table.names, column_out])
    for row, score in zip(variants.table.rows, scores, strict=True):
        writer.writerow([*row, "" if score is None else f"{score:.6g}"])
    with written_whole(output) as file:
        file.write(text.getvalue().encode())


def _by_hidden_positions(model: Model, variants: Variants, finished: FinishedWindows) -> list[float | None]:
    hidden = _hidden_in_turn(model, variants.wildtype, variants.positions, finished)
    logs = dict(zip(variants.positions.tolist(), hidden, strict=True))
    return [None if mutated is None else _log_odds(logs, mutated) for mutated in variants.changes]


def _by_whole_proteins(model: Model, variants: Variants, finished: FinishedWindows) -> list[float | None]:
    proteins = [variants.wildtype]
    for mutated in variants.changes:
        protein = variants.wildtype.copy()
        for mutation in mutated or ():
            protein[mutation.position] = ord(vocabulary.TOKENS[mutation.after])
        proteins.append(protein)

    likelihoods = model.log_likelihoods
    if model.neural_potts:
        likelihoods = partial(log_likelihoods, potts_of(model, variants.wildtype))

    def table(part: list[np.ndarray]) -> pa.Table:
        return pa.table({"logs": likelihoods(part)})

    size = max(1, BATCHES * model.machine.batch_tokens // (len(variants.wildtype) + 1))
    with Bar("scoring", len(proteins), of_bytes=False) as bar:
        for begin in range(0, len(proteins), size):
            part = proteins[begin : begin + size]
            finished.add(b"".join(protein.tobytes() for protein in part), 0, partial(table, part))
            bar.advance(len(part))
    wild, *others = np.concatenate([done["logs"].to_numpy() for done in finished])
    pairs = zip(others, variants.changes, strict=True)
    return [None if mutated is None else float(log - wild) for log, mutated in pairs]


def _log_odds(logs: Mapping[int, np.ndarray], mutated: list[Mutation]) -> float:
    return sum(float(logs[m.position][m.after] - logs[m.position][m.before]) for m in mutated)


def _hidden_in_turn(
    model: Model, letters: np.ndarray, positions: np.ndarray, finished: FinishedWindows
) -> Iterator[np.ndarray]:
    """The log-probabilities (V,) at each position, computed in parts of several positions."""

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
