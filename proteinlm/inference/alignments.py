"""Contact maps and effects of variants by models that read alignments: a Potts model, or the MSA Transformer.

L residues of a protein.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from proteinlm import vocabulary
from proteinlm.data.alignments.reading import Alignment, check_query, read_alignment
from proteinlm.errors import InputError
from proteinlm.inference.contact_maps import check_paths, write_matrices
from proteinlm.inference.jobs import find_finished
from proteinlm.inference.likelihoods import SCORE, read_variants, write_scores

LONGEST = 5_000
"""Residues of the longest protein whose variants can be scored; its memory is checked before it is computed."""


class AlignmentModel(Protocol):
    """What is asked of a model that reads alignments."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What the results depend on besides the alignment."""
        ...

    def contacts(self, alignment: Alignment) -> np.ndarray:
        """Scores (L, L) float32 of contacts."""
        ...

    def log_odds(self, alignment: Alignment, variants: Sequence[Mapping[int, str]]) -> list[float]:
        """The log-odds of each variant and the query; a variant is letters by their place in the query, from 0."""
        ...


def write_contacts(model: AlignmentModel, paths: Sequence[Path], output: Path, pictures: Path | None) -> None:
    """Write a contact map (L, L) of each alignment to `output`, by the name of its file without the endings.

    Finished maps are kept if the command is interrupted, and not computed again.
    """
    check_paths(paths, output, pictures)
    names = names_of(paths)
    with find_finished(output, {"of": "contacts", **model.settings}, "alignment") as finished:
        for path, name in zip(paths, names, strict=True):
            alignment = read_alignment(path)
            content = f"{name} {alignment.columns}\n".encode() + alignment.letters.tobytes()
            finished.add(content, 1, partial(_table, model, name, alignment))
        write_matrices(pictures, output, finished)


def names_of(paths: Sequence[Path]) -> list[str]:
    """The names of files without an ending such as ``.a3m.gz``; `InputError` if two are the same."""
    names = [Path(path.name.removesuffix(".gz").removesuffix(".xz")).stem for path in paths]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"{paths[number]}: another alignment has the name {name} too: rename the file")
    return names


def _table(model: AlignmentModel, name: str, alignment: Alignment) -> pa.Table:
    scores = model.contacts(alignment)
    flat = pa.array([scores.ravel()], pa.large_list(pa.float32()))
    return pa.table({"id": [name], "length": pa.array([len(scores)], pa.int32()), "map": flat})


def score_variants(
    model: AlignmentModel,
    source: Path,
    wildtype: Path,
    variants: Path,
    output: Path,
    *,
    column: str = "mutant",
    column_out: str = SCORE,
    first: int = 1,
    skip_unknown: bool = False,
    letters: str = "strict",
) -> list[str]:
    """Write the table `variants` with the log-odds of variant and wild type by a model of the alignment `source`.

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
    asked: list[dict[int, str]] = []
    for row, (name, line, mutated) in enumerate(zip(names, wanted.table.lines, wanted.changes, strict=True)):
        if mutated is None:
            continue
        after = {m.position - begin: vocabulary.TOKENS[m.after] for m in mutated}
        if reason := _unknown(after, alignment.columns):
            if not skip_unknown:
                raise InputError(f"{variants}: line {line}: {name}: {reason}; --skip-unknown leaves such out")
            skipped.append(f"line {line}: {name.strip()}")
            continue
        asked.append(after)
        places.append(row)
    scores: list[float | None] = [None] * len(names)
    for row, score in zip(places, model.log_odds(alignment, asked), strict=True):
        scores[row] = score
    write_scores(wanted, scores, output, column_out)
    return skipped


def _unknown(after: dict[int, str], columns: int) -> str:
    """Why an alignment with so many columns cannot tell the effect of letters `after` at places; empty if it can."""
    if any(not 0 <= place < columns for place in after):
        return "outside the alignment"
    other = [letter for letter in after.values() if letter not in vocabulary.AMINO_ACIDS]
    return f"{other[0]} is no amino acid" if other else ""
