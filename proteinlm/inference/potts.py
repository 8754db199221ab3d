"""Potts models of alignments that users give: contact maps, and effects of variants.

L residues of a protein.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from proteinlm import vocabulary
from proteinlm.data.alignments.reading import Alignment, check_query, read_alignment
from proteinlm.data.alignments.weights import sequence_weights
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.contact_maps import check_paths, write_matrices
from proteinlm.inference.jobs import find_finished
from proteinlm.inference.likelihoods import SCORE, read_variants, write_scores
from proteinlm.models import potts
from proteinlm.models.potts import Potts, states_of
from proteinlm.planner.hardware import processor

LONGEST = 5_000
"""Residues of the longest protein whose variants can be scored; its memory is checked before it is fitted."""
SHALLOW = 0.5
"""Effective rows for each column, below which a user is told that the alignment is shallow."""


def fit(alignment: Alignment, device: torch.device, *, couplings: bool = True, says_depth: bool = False) -> Potts:
    """Fit a Potts model to an alignment, on a device; without `couplings`, the site-independent model.

    `says_depth` prints the effective depth on standard error. Raises `InputError` for an alignment of the query alone,
    and one whose couplings do not fit into memory.
    """
    if alignment.depth < 2:
        raise InputError(f"{alignment.origin}: the query alone: no relatives to compare it with")
    if alignment.columns < 2:
        raise InputError(f"{alignment.origin}: one column: no pairs")
    needed = potts.bytes_needed(alignment.depth, alignment.columns)
    if couplings and needed > (there := _memory(device)):
        raise InputError(
            f"{alignment.origin}: couplings of {alignment.columns:,} columns take {needed / 1e9:.1f} GB, "
            f"and there are {there / 1e9:.1f} GB: cut the protein into domains"
        )
    weights = sequence_weights(alignment.letters)
    if says_depth:
        _say_depth(alignment, float(weights.sum()))
    states = torch.from_numpy(states_of(alignment.letters)).to(device)
    counted = torch.from_numpy(weights).float().to(device)
    if not couplings:
        return potts.fit_independent(states, counted)
    with Bar("fitting columns", alignment.columns, of_bytes=False) as bar:
        return potts.fit(states, counted, fitted=bar.advance)


def _say_depth(alignment: Alignment, depth: float) -> None:
    shallow = ", few for its length" if depth < SHALLOW * alignment.columns else ""
    print(
        f"{alignment.origin}: {alignment.depth:,} rows, {alignment.columns:,} columns, "
        f"effective depth {depth:,.0f}{shallow}",
        file=sys.stderr,
    )


def write_contacts(paths: Sequence[Path], output: Path, pictures: Path | None, device: torch.device) -> None:
    """Write a contact map (L, L) of each alignment to `output`, by the name of its file without the endings.

    Finished maps are kept if the command is interrupted, and not computed again.
    """
    check_paths(paths, output, pictures)
    names = [path.name.split(".")[0] for path in paths]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"{paths[number]}: another alignment has the name {name} too: rename the file")
    with find_finished(output, {"of": "contacts", "method": "potts"}, "alignment") as finished:
        for path, name in zip(paths, names, strict=True):
            alignment = read_alignment(path)
            content = f"{name} {alignment.columns}\n".encode() + alignment.letters.tobytes()
            finished.add(content, 1, partial(_table, name, alignment, device))
        write_matrices(pictures, output, finished)


def _table(name: str, alignment: Alignment, device: torch.device) -> pa.Table:
    scores = fit(alignment, device, says_depth=True).contacts().float().cpu().numpy()
    flat = pa.array([scores.ravel()], pa.large_list(pa.float32()))
    return pa.table({"id": [name], "length": pa.array([len(scores)], pa.int32()), "map": flat})


def score_variants(
    source: Path,
    wildtype: Path,
    variants: Path,
    output: Path,
    device: torch.device,
    *,
    couplings: bool = True,
    column: str = "mutant",
    column_out: str = SCORE,
    first: int = 1,
    skip_unknown: bool = False,
    letters: str = "strict",
) -> list[str]:
    """Write the table `variants` with the log-odds of variant and wild type in a Potts model of the alignment `source`.

    The alignment's query is the wild type or a stretch of it. As `likelihoods.score_variants` in all else: a variant that
    changes a residue outside that stretch, or to a letter that is no amino acid, is refused or skipped like one that is
    no substitution.
    """
    wanted = read_variants(
        wildtype,
        variants,
        LONGEST,
        column=column,
        column_out=column_out,
        first=first,
        skip_unknown=skip_unknown,
        letters=letters,
    )
    alignment = read_alignment(source)
    begin = check_query(alignment, wanted.wildtype)
    names, skipped, places = wanted.table.column(column), list(wanted.skipped), []
    states = np.tile(states_of(alignment.query), (1 + len(names), 1))  # the wild type first
    for row, (name, line, mutated) in enumerate(zip(names, wanted.table.lines, wanted.changes, strict=True), 1):
        if mutated is None:
            continue
        after = {m.position - begin: vocabulary.TOKENS[m.after] for m in mutated}
        if reason := _unknown(after, alignment.columns):
            if not skip_unknown:
                raise InputError(f"{variants}: line {line}: {name}: {reason}; --skip-unknown leaves such out")
            skipped.append(f"line {line}: {name.strip()}")
            continue
        for place, letter in after.items():
            states[row, place] = states_of(np.frombuffer(letter.encode(), np.uint8))[0]
        places.append(row)
    model = fit(alignment, device, couplings=couplings, says_depth=True)
    energies = model.energies(torch.from_numpy(states[[0, *places]]).to(device)).double().cpu().numpy()
    scores: list[float | None] = [None] * len(names)
    for row, energy in zip(places, energies[1:], strict=True):
        scores[row - 1] = float(energies[0] - energy)
    write_scores(wanted, scores, output, column_out)
    return skipped


def _unknown(after: dict[int, str], columns: int) -> str:
    """Why an alignment with so many columns cannot tell the effect of letters `after` at places; empty if it can."""
    if any(not 0 <= place < columns for place in after):
        return "outside the alignment"
    other = [letter for letter in after.values() if letter not in vocabulary.AMINO_ACIDS]
    return f"{other[0]} is no amino acid" if other else ""


def _memory(device: torch.device) -> float:
    """Bytes of memory on the device that a process can have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    available = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next(available, processor(1).memory)
