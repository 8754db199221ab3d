"""Scores of the tasks, exact under any number of processes.

A metric keeps one row per record; processes gather rows, each with its own number of them, and every score is computed
from all rows in the order of their records, by the same `Sample` that gives its interval. So neither the number of
processes nor the order of the records can change a score, a record that comes twice is an error, and `per_record` gives
what is saved beside the result.

T tokens of packed proteins, B proteins, C classes, L residues of one protein, P pairs, n records.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from proteinlm.records.bootstrap import Predictions, Sample, Scores
from proteinlm.records.contact_map import SEPARATIONS, SHORT
from proteinlm.records.measures import Measured, spearman

IGNORED = -1
"""Target of a token that is not scored: [CLS], an unresolved residue, a residue without a label."""
FRACTIONS = (1, 2, 5)
"""The n of P@L/n."""
CONTACT_SCORES = (
    *(f"precision_at_l{n if n > 1 else ''}_separation_{least}" for least in SEPARATIONS for n in FRACTIONS),
    "legacy_precision_at_l5",
)


class RecordMetric(Metric):
    """Rows of numbers, one per record, and the named scores computed from them."""

    full_state_update = False
    record: list[Tensor] | Tensor
    rows: list[Tensor] | Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.add_state("record", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx="cat")

    @abstractmethod
    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        """The scores by name, from the records (n,) int64 and their rows (n, columns) float64."""

    def compute(self) -> dict[str, Tensor]:
        """Each score by name, over all processes; nan where no record is scored."""
        return {name: torch.tensor(sample.estimate(), dtype=torch.float64) for name, sample in self._gathered().items()}

    def per_record(self) -> dict[str, Sample]:
        """The records that each score is computed from, over all processes; every process must call it."""
        with self.sync_context():
            return self._gathered()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics lets a process without records take part with a flat float32 tensor, whose shape and type do not
        # fit the other processes' states: gloo and NCCL then hang or mix up bytes.
        if isinstance(self.record, list) and not self.record:
            self._append(torch.zeros(0), torch.zeros(0, self.columns))
        super().sync(*args, **kwargs)

    def _append(self, record: Tensor, *columns: Tensor) -> None:
        """Add rows (B, columns), given whole or column by column (B,)."""
        assert isinstance(self.record, list)
        assert isinstance(self.rows, list)
        rows = torch.column_stack([column.detach().double() for column in columns])
        self.record.append(record.to(self.device, torch.int64))
        self.rows.append(rows.to(self.device))

    def _gathered(self) -> dict[str, Sample]:
        if isinstance(self.record, list) and not self.record:
            return self.samples(np.zeros(0, np.int64), np.zeros((0, self.columns)))
        return self.samples(dim_zero_cat(self.record).cpu().numpy(), dim_zero_cat(self.rows).cpu().numpy())


class ResidueAccuracy(RecordMetric):
    """Share of the labelled residues of all proteins that are right (``accuracy``); proteins are the records."""

    def __init__(self) -> None:
        super().__init__(columns=2)

    def update(self, logits: Tensor, targets: Tensor, starts: Tensor, records: Tensor) -> None:
        """Score `logits` (T, C) against `targets` (T,), IGNORED where there is nothing to score.

        `starts` (B + 1 or more,) bounds the packed proteins, of which the first B are the `records` (B,).
        """
        labelled = targets != IGNORED  # (T,)
        right = (logits.argmax(dim=-1) == targets) & labelled
        bounds = starts[: len(records) + 1].long()
        self._append(records, _sums(right, bounds), _sums(labelled, bounds))

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        right, labelled = rows.T
        return {"accuracy": Scores(record, right / np.maximum(labelled, 1), labelled)}


class ResidueLoss(RecordMetric):
    """Mean ``loss`` of the residues to recover, in nats; proteins are the records. Its exponential is the perplexity."""

    def __init__(self) -> None:
        super().__init__(columns=2)

    def update(self, losses: Tensor, positions: Tensor, starts: Tensor, records: Tensor) -> None:
        """Add the `losses` (K,) of the tokens at `positions` (K,), rising; `starts` as in `ResidueAccuracy`."""
        ends = torch.searchsorted(positions, starts[: len(records) + 1].to(positions.dtype))
        self._append(records, _sums(losses.double(), ends), ends.diff())

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        total, targets = rows.T
        return {"loss": Scores(record, total / np.maximum(targets, 1), targets)}


class ProteinAccuracy(RecordMetric):
    """Share of the proteins whose most likely class is right (``accuracy``): top-1."""

    def __init__(self) -> None:
        super().__init__(columns=1)

    def update(self, logits: Tensor, targets: Tensor, records: Tensor) -> None:
        """Score `logits` (B, C) against `targets` (B,) of the `records` (B,)."""
        self._append(records, logits.argmax(dim=-1) == targets)

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        return {"accuracy": Scores(record, rows[:, 0], np.ones(len(record)))}


class Regression(RecordMetric):
    """Spearman's rank correlation over all records (``spearman``, nan where all targets are equal) and
    ``mean_squared_error``, in the targets' units.
    """

    def __init__(self) -> None:
        super().__init__(columns=2)

    def update(self, predictions: Tensor, targets: Tensor, records: Tensor) -> None:
        """Score `predictions` (B,) against `targets` (B,) of the `records` (B,)."""
        self._append(records, predictions, targets)

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        pairs = Predictions(record, *rows.T)
        return {"spearman": pairs, "mean_squared_error": pairs.squared_errors()}


class ResidueRanking(RecordMetric):
    """Spearman's rank correlation over the residues of all proteins (``spearman``); proteins are what is resampled."""

    def __init__(self) -> None:
        super().__init__(columns=2)

    def update(self, predictions: Tensor, targets: Tensor, starts: Tensor, records: Tensor) -> None:
        """Score `predictions` (T,) against `targets` (T,), nan where there is nothing to score; `starts` (B + 1,)."""
        there = ~targets.isnan()
        bounds = starts[: len(records) + 1].long()
        self._append(records.repeat_interleave(_sums(there, bounds)), predictions[there], targets[there])

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        order = np.argsort(record, kind="stable")
        numbers, owner = np.unique(record[order], return_inverse=True)
        predictions, targets = rows[order].T
        return {"spearman": Measured(numbers, owner, predictions, targets, spearman)}


class ContactPrecision(RecordMetric):
    """How many of the most confident pairs are contacts, by range and depth (`CONTACT_SCORES`).

    ``precision_at_l<n>_separation_<s>``, mean over proteins: pairs i < j of resolved residues with j - i >= s; the
    ``max(1, L // n)`` most confident of them, L the number of resolved residues; ties go to the lower (i, j); divided
    by the pairs taken, fewer where the protein has fewer. A protein without such a pair is unscored.

    ``legacy_precision_at_l5`` is what ProteinLM computed and published (``compute_precision_at_l5`` of its
    ``pretrain/tasks/protein``), separation >= 6: the ``residues // 5`` best entries of the full matrix, in which every
    pair comes twice, so that half as many pairs are taken; unresolved residues count in ``residues``; entries that do
    not exist count as wrong; summed over all proteins before dividing.
    """

    def __init__(self) -> None:
        super().__init__(columns=2 * len(CONTACT_SCORES))

    def update(self, logits: Tensor, contacts: Tensor, resolved: Tensor, record: int) -> None:
        """Score one protein: symmetric `logits` (L, L), `contacts` (L, L) bool and `resolved` (L,) bool.

        Only i < j is read. A logit that is not a number makes the scores nan, not a good guess.
        """
        hits, separation = ranked_pairs(logits, contacts.bool(), resolved.bool())
        length = int(resolved.sum())
        columns = []  # (2,) each: value and weight
        for least in SEPARATIONS:
            within = hits[separation >= least]
            columns += [_precision(within[: max(1, length // n)]) for n in FRACTIONS]
        asked = len(resolved) // 5
        twice = hits.repeat_interleave(2)[:asked].sum()
        columns.append(torch.stack([twice / max(asked, 1), torch.tensor(asked, device=hits.device)]))
        self._append(torch.tensor([record]), torch.cat(columns).unsqueeze(0))

    def samples(self, record: np.ndarray, rows: np.ndarray) -> dict[str, Sample]:
        return {name: Scores(record, rows[:, 2 * i], rows[:, 2 * i + 1]) for i, name in enumerate(CONTACT_SCORES)}


def ranked_pairs(logits: Tensor, contacts: Tensor, resolved: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of resolved residues at least six apart, most confident first: whether in contact (P,) and separation (P,).

    Contacts are float64, and nan if any logit of these pairs is.
    """
    position = resolved.nonzero().squeeze(1)
    first, second = position[torch.triu_indices(len(position), len(position), offset=1, device=position.device)]
    far = second - first >= SHORT
    first, second = first[far], second[far]  # in the order of (i, j), which the stable sort keeps among ties
    confidence, order = logits[first, second].sort(descending=True, stable=True)
    hits = contacts[first, second][order].double()
    if confidence.isnan().any():  # sorted as the most confident of all
        hits.fill_(torch.nan)
    return hits, (second - first)[order]


def _precision(hits: Tensor) -> Tensor:
    """Share of contacts among the pairs taken, and whether there are any: (2,)."""
    return torch.stack([hits.sum() / max(len(hits), 1), torch.tensor(float(len(hits) > 0), device=hits.device)])


def _sums(flags: Tensor, bounds: Tensor) -> Tensor:
    """Number of set flags (T,) of each protein, (B,) int64."""
    running = torch.cat([flags.new_zeros(1, dtype=torch.int64), flags.cumsum(dim=0)])
    return running[bounds].diff()
