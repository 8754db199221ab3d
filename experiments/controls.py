"""What can be had on the downstream tasks without any network: ``python -m experiments.controls task=stability``.

A fine-tuned model that does not beat these numbers has learnt nothing that they miss. Takes the same config as
``experiments.finetune``; fits on the training split, chooses by the validation split, scores the others.

- secondary structure: a linear classifier of the 17 residues around
- remote homology: the fold of the training protein with the most similar 3-mers; nothing is aligned
- contacts: the pairs that are nearest along the sequence
- fluorescence, stability: ridge regression on the residue at each position
- fluorescence: the fewer residues differ from the commonest at each position, the better
- stability: the fewer residues differ from the nearest training protein, the better
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from proteinlm.config import FinetuneConfig, ModelConfig
from proteinlm.errors import InputError
from proteinlm.launch import entry
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.results import Score
from proteinlm.training.cli import score_line
from proteinlm.vocabulary import AMINO_ACIDS

if TYPE_CHECKING:
    from proteinlm.data.batches.labelled import LabelledProteins

LETTERS = len(AMINO_ACIDS) + 1  # the last for any other
WINDOW = 17  # residues
COUNT = "mutation count"
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # of the penalty in ridge regression


@entry.hydra_main("finetune")
def main(config: FinetuneConfig) -> None:
    if config.task.name not in CONTROLS:
        raise InputError(f"task={config.task.name} has no controls, only {', '.join(CONTROLS)}")
    for name in CONTROLS[config.task.name]:
        for split, samples in score(config, name):
            for metric, sample in samples.items():
                if name == COUNT and metric == "mean_squared_error":
                    continue  # counts rank, and are in no unit of the label
                found = Score(config.task.label, split, metric, sample.estimate(), *bootstrap(sample), sample.n)
                print(score_line(f"control ({name})", found))


def score(config: FinetuneConfig, control: str = "") -> Iterator[tuple[str, dict[str, Sample]]]:
    """The samples behind the scores of each split, by one of the task's `CONTROLS`, the first by default."""
    from proteinlm.training.finetuning_data import Splits

    if not isinstance(config.model, ModelConfig):
        raise InputError("controls have no model: name any shape, as in model=tiny, for its max_positions")
    splits = Splits(config, config.model)
    known = CONTROLS[config.task.name]
    predict = known[control or next(iter(known))](splits.train, splits.valid)
    for split in splits.test_splits:
        proteins = splits.read(split)
        metric = splits.task(config.task, config.model).metric()
        for letters, target, record in zip(proteins.letters, proteins.targets, proteins.records, strict=True):
            _UPDATES[config.task.name](metric, predict(letters), target, int(record))
        yield split, metric.per_record()


def places(letters: np.ndarray) -> np.ndarray:
    """Index of each residue among the amino acids, (L,) from ASCII letters (L,)."""
    table = np.full(256, LETTERS - 1)
    for index, letter in enumerate(AMINO_ACIDS):
        table[[ord(letter), ord(letter.lower())]] = index
    return table[letters]


Predict = Callable[[np.ndarray], np.ndarray]
"""From the letters (L,) of a protein to what its head would say."""


def residue_windows(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Least squares on the classes of the labelled residues: logits (L, C)."""
    classes = max(int(target.max()) for target in train.targets) + 1
    squares = np.zeros((WINDOW * LETTERS + 1, WINDOW * LETTERS + 1))
    products = np.zeros((len(squares), classes))
    for letters, target in zip(train.letters, train.targets, strict=True):
        known = target >= 0
        features = windows(letters)[known]
        squares += features.T @ features
        products += features.T @ np.eye(classes, dtype=np.float32)[target[known]]
    weights = np.linalg.solve(squares + np.eye(len(squares)), products)
    return lambda letters: windows(letters) @ weights


def windows(letters: np.ndarray) -> np.ndarray:
    """One-hot residues around each residue and a one, (L, WINDOW * LETTERS + 1); nothing beyond the ends."""
    half = WINDOW // 2
    one_hot = np.pad(np.eye(LETTERS, dtype=np.float32)[places(letters)], ((half, half), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(one_hot, WINDOW, axis=0)  # (L, LETTERS, WINDOW)
    return np.hstack([around.reshape(len(letters), -1), np.ones((len(letters), 1), dtype=np.float32)])


def nearest_fold(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Cosine similarity of square roots of 3-mer counts: logits (classes,), one for the fold of the nearest."""
    known = np.stack([_triplets(letters) for letters in train.letters], axis=1)  # (LETTERS ** 3, N)
    folds = np.array(train.targets)

    def predict(letters: np.ndarray) -> np.ndarray:
        asked = _triplets(letters)
        here = np.flatnonzero(asked)
        nearest = folds[(asked[here] @ known[here]).argmax()]
        return np.eye(folds.max() + 2, dtype=np.float32)[nearest]

    return predict


def _triplets(letters: np.ndarray) -> np.ndarray:
    index = places(letters)
    numbers = index[:-2] * LETTERS**2 + index[1:-1] * LETTERS + index[2:]
    roots = np.sqrt(np.bincount(numbers, minlength=LETTERS**3)).astype(np.float32)
    return roots / max(float(np.linalg.norm(roots)), 1e-9)


def nearest_pairs(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Logits (L, L) that fall with the separation."""

    def predict(letters: np.ndarray) -> np.ndarray:
        position = np.arange(len(letters), dtype=np.float32)
        return -np.abs(position[:, None] - position)

    return predict


def positions(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Ridge regression on one-hot residues by position, of the penalty that ranks the validation proteins best."""
    width = max(len(letters) for letters in train.letters)
    features = np.stack([_positions(letters, width) for letters in train.letters])
    used = features.any(axis=0)
    features, targets = features[:, used], np.array(train.targets, dtype=np.float64)
    mean, centre = features.mean(axis=0), targets.mean()
    features -= mean
    squares, products = (features.T @ features).astype(np.float64), features.T @ (targets - centre)
    held_out = np.stack([_positions(letters, width)[used] for letters in valid.letters]) - mean
    ranks = np.array(valid.targets, dtype=np.float64).argsort().argsort()
    fitted = [np.linalg.solve(squares + strength * np.eye(len(squares)), products) for strength in STRENGTHS]
    best = max(fitted, key=lambda weights: np.corrcoef((held_out @ weights).argsort().argsort(), ranks)[0, 1])
    return lambda letters: (_positions(letters, width)[used] - mean) @ best + centre


def changes_from_consensus(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Minus the number of residues that differ from the commonest one at their position: () float32.

    Of mutants of one protein, with few mutations each, the commonest residues are those of the protein itself.
    """
    width = max(len(letters) for letters in train.letters)
    counts = np.zeros((width, LETTERS), dtype=np.int64)
    for letters in train.letters:
        counts[np.arange(len(letters)), places(letters)] += 1
    consensus = counts.argmax(axis=1)
    usual = int(np.median(train.lengths))
    return lambda letters: np.asarray(-_differences(places(letters)[None], consensus[:usual])[0], dtype=np.float32)


def changes_from_nearest(train: "LabelledProteins", valid: "LabelledProteins") -> Predict:
    """Minus the number of residues that differ from the training protein in which fewest do: () float32."""
    by_length: dict[int, list[np.ndarray]] = {}
    for letters in train.letters:
        by_length.setdefault(len(letters), []).append(places(letters).astype(np.uint8))
    known = [np.stack(same) for same in by_length.values()]

    def predict(letters: np.ndarray) -> np.ndarray:
        asked = places(letters).astype(np.uint8)
        return np.asarray(-min(_differences(same, asked).min() for same in known), dtype=np.float32)

    return predict


def _differences(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Positions at which proteins (N, L) and one (L',) differ, position by position; one's excess length counts."""
    shared = min(known.shape[1], len(asked))
    return (known[:, :shared] != asked[:shared]).sum(axis=1) + abs(known.shape[1] - len(asked))


def _positions(letters: np.ndarray, width: int) -> np.ndarray:
    """One-hot residues of the first `width` positions, flat."""
    table = np.zeros((width, LETTERS), dtype=np.float32)
    here = places(letters)[:width]
    table[np.arange(len(here)), here] = 1
    return table.ravel()


def _add_residues(metric: Any, logits: np.ndarray, target: np.ndarray, record: int) -> None:
    import torch

    starts = torch.tensor([0, len(target)])
    metric.update(torch.from_numpy(logits), torch.from_numpy(target), starts, torch.tensor([record]))


def _add_protein(metric: Any, output: np.ndarray, target: np.ndarray, record: int) -> None:
    import torch

    metric.update(torch.as_tensor(output)[None], torch.as_tensor(target)[None], torch.tensor([record]))


def _add_map(metric: Any, logits: np.ndarray, target: np.ndarray, record: int) -> None:
    import torch

    from proteinlm.tasks.contact import contacts, resolved

    coordinates = torch.from_numpy(target)
    metric.update(torch.from_numpy(logits), contacts(coordinates), resolved(coordinates), record)


CONTROLS: dict[str, dict[str, Callable[["LabelledProteins", "LabelledProteins"], Predict]]] = {
    "secondary_structure": {"window": residue_windows},
    "remote_homology": {"nearest by 3-mers": nearest_fold},
    "contact": {"separation": nearest_pairs},
    "fluorescence": {"ridge on positions": positions, COUNT: changes_from_consensus},
    "stability": {"ridge on positions": positions, COUNT: changes_from_nearest},
}
"""Of each task, by name, fitted on its training and validation proteins."""
_UPDATES = {
    "secondary_structure": _add_residues,
    "remote_homology": _add_protein,
    "contact": _add_map,
    "fluorescence": _add_protein,
    "stability": _add_protein,
}


if __name__ == "__main__":
    main()
