"""ProteinGym's substitutions without training: how a language model ranks the variants of each assay.

A file is written for each assay as soon as it is scored, so an interrupted run goes on, and several processes can share the
assays. Scores are higher for variants that are likelier to function.

- ``masked_marginals`` (Meier et al. 2021): the sum over mutations of log p(mutant) - log p(wild type), with that position
  of the wild type hidden, one position at a time.
- ``wildtype_marginals``: the same with nothing hidden, one pass for a protein that fits the window.
- ``pseudo_likelihood``: the sum over residues of log p(residue) when it is hidden, of the variant; as many passes as it has
  residues, for every variant.

A protein longer than the window is seen through one around each position, as ProteinGym's code does. L residues, V
vocabulary, N variants.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from experiments.benchmark import published
from experiments.benchmark.aggregation import AVERAGE, Summary, summarize
from experiments.benchmark.by_assay import NORMAL
from experiments.benchmark.scores import Score, cell
from proteinlm import vocabulary
from proteinlm.data.batches.packing import pack_letters
from proteinlm.data.formats.proteingym import Assay, Variants, read_assay, read_reference
from proteinlm.data.formats.table import read_table
from proteinlm.data.progress import Bar
from proteinlm.errors import InputError
from proteinlm.inference.likelihoods import masked_log_probabilities
from proteinlm.inference.model import Model
from proteinlm.inference.variants import Mutation, check_sequence, mutations
from proteinlm.records.bootstrap import Interval
from proteinlm.records.measures import FLAGS, auc, median_mcc, ndcg, spearman, top_recall
from proteinlm.storage.atomic import write_text

FOLDERS = ("DMS_ProteinGym_substitutions", "ProteinGym_substitutions", "substitutions")
"""The names of the directory of the assays' tables beside the reference table."""
SCORE = "score"
NUMBERS_OF_MUTATIONS = ("1", "2", "3", "4", "5+")
MEASURES = {"spearman": spearman, "ndcg": ndcg, "top_recall": top_recall}
OF_FLAGS = {"auc": auc, "mcc": median_mcc}
assert OF_FLAGS.keys() <= FLAGS.keys()


class Found(NamedTuple):
    """The assays that are there to be scored."""

    assays: list[tuple[Assay, Path]]
    missing: int
    """Rows of the reference table whose file is not there."""


def find_assays(root: Path) -> Found:
    """The assays of ``root/proteingym``, in the reference's order; raises `InputError` for a file without a row in it."""
    directory = root / "proteingym"
    reference = read_reference(published.find(directory, published.REFERENCE))
    folder = next((directory / name for name in FOLDERS if (directory / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{directory / FOLDERS[0]}: no such directory: ProteinGym's tables of the assays go there")
    known = {assay.file: assay for assay in reference.values()}
    files = {file.name: file for file in sorted(folder.glob("*.csv"))}
    if strange := files.keys() - known.keys():
        raise InputError(f"{files[min(strange)]}: no row of {published.REFERENCE} has this DMS_filename")
    if not files:
        raise InputError(f"{folder}: no .csv file in it")
    return Found([(assay, files[name]) for name, assay in known.items() if name in files], len(known) - len(files))


def changes_of(assay: Assay, file: Path, variants: Variants) -> list[list[Mutation]]:
    """The mutations of each variant; raises `InputError` with file, line and column for one that does not fit the target."""
    letters = np.frombuffer(assay.target.encode(), np.uint8)
    if not assay.target or vocabulary.first_invalid(letters) is not None:
        raise InputError(
            f"{published.REFERENCE}: target_seq of {assay.name} is empty or has a letter that is no residue"
        )
    changes = []
    for line, name, sequence in zip(variants.table.lines, variants.mutant, variants.sequence, strict=True):
        try:
            changes.append(mutations(name, letters, 1))
            if sequence.strip():
                check_sequence(sequence, letters, changes[-1], 1)
        except InputError as error:
            raise InputError(f"{file}: line {line}, mutant: {error}") from None
    return changes


def span(position: int, length: int, window: int) -> tuple[int, int]:
    """The residues, from and to, that a window around `position` has of a protein of `length`."""
    if length <= window:
        return 0, length
    begin = min(max(position - window // 2, 0), length - window)
    return begin, begin + window


def _masked(model: Model, letters: np.ndarray, positions: Sequence[int], window: int) -> dict[int, np.ndarray]:
    """Log-probabilities (V,) at each position, when it alone is hidden."""
    found: dict[int, np.ndarray] = {}
    for begin, end, group in _by_span(positions, len(letters), window):
        logs = masked_log_probabilities(model, letters[begin:end], np.array(group) - begin)
        found |= zip(group, logs, strict=True)
    return found


def _visible(model: Model, letters: np.ndarray, positions: Sequence[int], window: int) -> dict[int, np.ndarray]:
    """Log-probabilities (V,) at each position, when nothing is hidden."""
    found: dict[int, np.ndarray] = {}
    for begin, end, group in _by_span(positions, len(letters), window):
        packed = model.machine.to_device(pack_letters([letters[begin:end]]))
        places = torch.tensor([position - begin + 1 for position in group], device=model.machine.device)  # after [CLS]
        found |= zip(group, model.log_probabilities(packed, places).cpu().numpy(), strict=True)
    return found


def _by_span(positions: Sequence[int], length: int, window: int) -> Iterator[tuple[int, int, list[int]]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for position in positions:
        groups.setdefault(span(position, length, window), []).append(position)
    yield from ((begin, end, group) for (begin, end), group in groups.items())


def _marginals(logs: Callable[..., dict[int, np.ndarray]]) -> Callable[..., Iterator[float]]:
    def scores(model: Model, letters: np.ndarray, changes: list[list[Mutation]], window: int) -> Iterator[float]:
        positions = sorted({mutation.position for own in changes for mutation in own})
        known: dict[int, np.ndarray] = {}
        with Bar("scoring", len(positions), of_bytes=False) as bar:
            for begin in range(0, len(positions), 64):
                known |= logs(model, letters, positions[begin : begin + 64], window)
                bar.advance(len(positions[begin : begin + 64]))
        for own in changes:
            yield sum(float(known[m.position][m.after] - known[m.position][m.before]) for m in own)

    return scores


def _pseudo_likelihood(
    model: Model, letters: np.ndarray, changes: list[list[Mutation]], window: int
) -> Iterator[float]:
    """Around the first mutation, where the protein is longer than the window."""
    with Bar("scoring", len(changes), of_bytes=False) as bar:
        for own in changes:
            mutant = letters.copy()
            for mutation in own:
                mutant[mutation.position] = ord(vocabulary.TOKENS[mutation.after])
            begin, end = span(own[0].position if own else 0, len(letters), window)
            part = mutant[begin:end]
            logs = masked_log_probabilities(model, part, np.arange(len(part)))
            yield float(logs[np.arange(len(part)), vocabulary.encode_bytes(part)].sum(dtype=np.float64))
            bar.advance(1)


METHODS: dict[str, Callable[[Model, np.ndarray, list[list[Mutation]], int], Iterator[float]]] = {
    "masked_marginals": _marginals(_masked),
    "wildtype_marginals": _marginals(_visible),
    "pseudo_likelihood": _pseudo_likelihood,
}


def score_assay(
    model: Model, method: str, window: int, assay: Assay, variants: Variants, changes: list[list[Mutation]], out: Path
) -> None:
    """Write the score of each variant beside what was measured."""
    letters = np.frombuffer(assay.target.encode(), np.uint8)
    scores = METHODS[method](model, letters, changes, min(window, model.longest))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    flags = [""] * len(changes) if variants.is_fit is None else [str(int(flag)) for flag in variants.is_fit]
    writer.writerow(["mutant", "DMS_score", "DMS_score_bin", SCORE])
    for row in zip(variants.mutant, variants.measured.tolist(), flags, scores, strict=True):
        writer.writerow([*row[:3], f"{row[3]:.9g}"])
    write_text(out, text.getvalue())


class AssayScores(NamedTuple):
    """The measures of one assay, nan where undefined."""

    measures: dict[str, float]
    by_mutations: dict[str, float]
    """Spearman's correlation within the variants of so many mutations."""


def measure(file: Path) -> AssayScores:
    """Read what `score_assay` wrote, and measure it as ProteinGym does."""
    table = read_table(file, SCORE)
    score, target = (np.array([float(cell) for cell in table.column(name)]) for name in (SCORE, "DMS_score"))
    found = {name: measured(score, target) for name, measured in MEASURES.items()}
    flags = table.column("DMS_score_bin")
    there = all(flags)
    found |= {name: f(score, np.array(flags, float)) if there else float("nan") for name, f in OF_FLAGS.items()}
    count = np.array([1 + mutant.count(":") for mutant in table.column("mutant")])
    within = {
        name: count == int(name) if name.isdecimal() else count >= len(NUMBERS_OF_MUTATIONS)
        for name in NUMBERS_OF_MUTATIONS
    }
    return AssayScores(found, {name: spearman(score[own], target[own]) for name, own in within.items()})


def summary_lines(scored: list[tuple[Assay, AssayScores]], missing: int) -> list[str]:
    """The scores of each assay, then their averages as ProteinGym's, in Markdown."""
    names = [*MEASURES, *OF_FLAGS]
    lines = [f"| assay | variants | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append(f"|:--|{'--:|' * (len(names) + 1)}")
    for assay, own in scored:
        cells = [_cell(own.measures[name]) for name in names]
        lines.append(f"| {assay.name} | {assay.variants:,} | {' | '.join(cells)} |")
    lines.append(
        f"| **average over selection types** | | {' | '.join(cell(*each) for each in averages(scored).values())} |"
    )
    lines += ["", *_averages(_summary(scored)), *_by_mutations(scored)]
    if missing:
        lines.append(f"{missing} of {missing + len(scored)} assays are not there: this is no score of ProteinGym")
    return lines


def _averages(summary: Summary) -> Iterator[str]:
    for name, average in summary.averages.items():
        if name != AVERAGE and not np.isnan(average[0]):
            yield f"- {name}: Spearman {_cell(average[0])}"


def _by_mutations(scored: list[tuple[Assay, AssayScores]]) -> Iterator[str]:
    """The mean over proteins and selection types, which ProteinGym does not weigh by type here."""
    for name in NUMBERS_OF_MUTATIONS:
        groups: dict[tuple[str, str], list[float]] = {}
        for assay, own in scored:
            if not np.isnan(own.by_mutations[name]):
                groups.setdefault((assay.protein, assay.selection), []).append(own.by_mutations[name])
        if groups:
            yield f"- {name} mutations: Spearman {_cell(float(np.mean([np.mean(group) for group in groups.values()])))}"


def _cell(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def run(model: Model, root: Path, method: str, window: int, part: tuple[int, int], output: Path) -> Iterator[str]:
    """Score the assays of one part, and once all are scored give the lines of their summary."""
    found = find_assays(root)
    output.mkdir(parents=True, exist_ok=True)
    files = {assay.name: output / assay.file for assay, _ in found.assays}
    mine = found.assays[part[0] - 1 :: part[1]]
    waiting = [(assay, file) for assay, file in mine if not files[assay.name].exists()]
    prepared = []
    for assay, file in waiting:  # whatever is wrong is said before anything is computed
        variants = read_assay(file)
        prepared.append((assay, variants, changes_of(assay, file, variants)))
    for number, (assay, variants, changes) in enumerate(prepared, start=1):
        score_assay(model, method, window, assay, variants, changes, files[assay.name])
        yield f"[{len(mine) - len(prepared) + number}/{len(mine)}] {assay.name}: {len(changes):,} variants"
    left = [assay.name for assay, _ in found.assays if not files[assay.name].exists()]
    if left:
        yield f"{len(left)} assays of other parts are not scored yet, as {left[0]}"
        return
    yield from summary_lines(scored(found, output), found.missing)


def scored(found: Found, output: Path) -> list[tuple[Assay, AssayScores]]:
    """The scores of every assay, from the files that `run` has written; none while one is missing."""
    files = [(assay, output / assay.file) for assay, _ in found.assays]
    if not all(file.exists() for _, file in files):
        return []
    return [(assay, measure(file)) for assay, file in files]


def averages(scores: list[tuple[Assay, AssayScores]]) -> dict[str, Score]:
    """ProteinGym's average of each measure, with a 95 % interval over the proteins of each selection type.

    The interval is undefined where a selection type has one protein: no spread is to be had from that.
    """
    summary = _summary(scores)
    found = zip((*MEASURES, *OF_FLAGS), summary.averages[AVERAGE], NORMAL * summary.own_error, strict=True)
    return {name: Score(float(value), Interval(value - reach, value + reach)) for name, value, reach in found}


def _summary(scores: list[tuple[Assay, AssayScores]]) -> Summary:
    values = np.array([[own.measures[name] for name in (*MEASURES, *OF_FLAGS)] for _, own in scores])
    return summarize([assay for assay, _ in scores], values)
