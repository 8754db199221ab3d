"""The rows of the table and what they can be compared by: made from result records and saved predictions alone."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf

from experiments.table7.published import BASELINES, COLUMNS, FORERUNNERS, TABLE7
from proteinlm.config import ModelConfig, ScaleConfig
from proteinlm.config.baselines import shape_from
from proteinlm.errors import InputError
from proteinlm.records import predictions, results
from proteinlm.records.bootstrap import Difference, Sample, paired_bootstrap_over
from proteinlm.records.results import Result, Score
from proteinlm.storage.untrusted import read_json

PRETRAIN, SCRATCH, UNIVERSES = "pretrain", "scratch-", "universes.json"
ALL = "all"
GIVEN = "-published"
"""What the name of a row has that is fine-tuned from weights of others: ``esm2-published``, ``esm2-published-frozen``."""
_BY_KEY = {column.key: column for column in COLUMNS}
SHOWN = 100
"""Rows that a table or a page shows at most; the files hold all."""
STAGES = (PRETRAIN, *dict.fromkeys(column.stage for column in COLUMNS))


class Cell(NamedTuple):
    """One score of one row."""

    score: Score | None
    tie: bool = False
    """The best of the ten rows in its column, or not distinguishable from it: the interval of the paired difference
    reaches zero."""

    @property
    def value(self) -> float | None:
        return self.score.value if self.score else None


@dataclass
class Row:
    """One line of the table: results by stage, and cells by column."""

    name: str
    directory: Path
    results: dict[str, Result]
    pretraining: Result | None = None
    """Of a control, that of the row beside it."""
    cells: dict[str, Cell] = field(default_factory=dict)
    universes: list[Path] = field(default_factory=list)
    """Of a table over several universes, the row's directory in each."""
    _samples: dict[Path, dict[tuple[str, str], Sample]] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        """Whether it was fine-tuned from random weights."""
        return self.name.startswith(SCRATCH)

    @property
    def given(self) -> bool:
        """Whether it starts from weights of others, and so has no pretraining."""
        return GIVEN in self.name

    @property
    def weights(self) -> str:
        """The fingerprint of the weights of others that it starts from; empty if it starts from none, or from several."""
        found = {result.start for result in self.results.values()} if self.given else set()
        return found.pop() if len(found) == 1 else ""

    @property
    def full(self) -> ModelConfig:
        """The shape that the row is named after; of a row with a name of its own, what was trained."""
        name = self.name.removeprefix(SCRATCH)
        return shape_of(name) if is_shape(name) else self.built

    @property
    def built(self) -> ModelConfig:
        """The shape that was trained, which a profile may have made smaller."""
        result = next(iter(self.results.values()))
        if self.baseline:
            return shape_of(self.name).scaled_down(asdict(ScaleConfig()) | self.scale)
        return ModelConfig(result.hidden_size, result.num_layers, result.num_heads)

    @property
    def parameters(self) -> int:
        """Of the model with its language-model head, as counted when it was pretrained.

        Of weights of others: with the smallest head of a task.
        """
        if self.given:
            return min(result.parameters for result in self.results.values())
        return self.pretraining.parameters if self.pretraining else self.built.parameters

    @property
    def full_parameters(self) -> int:
        """Of the shape that the row is named after."""
        return self.parameters if self.given else self.full.parameters

    @property
    def scale(self) -> dict[str, int]:
        """The divisors that a profile applied."""
        pretraining = self.results.get(PRETRAIN)
        return pretraining.scale if pretraining else {}

    @property
    def baseline(self) -> bool:
        """Whether its backbone is another than ProteinLM's."""
        return self.name in BASELINES or self.name in FORERUNNERS

    @property
    def missing(self) -> list[str]:
        wanted = STAGES[1:] if self.control or self.given else STAGES
        return [stage for stage in wanted if stage not in self.results]

    @property
    def flops(self) -> float:
        return sum(result.flops for result in self.results.values())

    @property
    def device_hours(self) -> float:
        return sum(result.device_seconds for result in self.results.values()) / 3600

    def perplexity(self, split: str) -> Score | None:
        pretraining = self.results.get(PRETRAIN)
        return pretraining.score("masked_language_model", split, "perplexity") if pretraining else None

    def samples(self, key: str) -> list[Sample]:
        """What the score in a column was computed from, in each universe."""
        stage, split, metric = _BY_KEY[key][2:]
        places = [directory / stage for directory in self.universes or [self.directory]]
        for place in places:
            if place not in self._samples:
                self._samples[place] = predictions.load(place)
        return [self._samples[place][split, metric] for place in places]

    def minus(self, other: "Row", key: str) -> Difference:
        """Its score less that of `other` in a column; without an interval if they were scored on different proteins."""
        pairs = [*zip(self.samples(key), other.samples(key), strict=True)]
        if not all(
            np.array_equal(first.record[first.counted], second.record[second.counted]) for first, second in pairs
        ):
            value = sum(first.estimate() - second.estimate() for first, second in pairs) / len(pairs)
            return Difference(value, nan, nan, nan)
        return paired_bootstrap_over(pairs)


def is_shape(name: str) -> bool:
    """Whether a row's name says what shape it has."""
    return name in BASELINES or name in FORERUNNERS or bool(re.fullmatch(r"hidden-\d+-layer-\d+(-head-\d+)?", name))


def shape_of(name: str) -> ModelConfig:
    """The full shape in a row's name; without heads in it, of one head, which no count of parameters sees."""
    if name in BASELINES or name in FORERUNNERS:
        values = OmegaConf.to_container(OmegaConf.load(results.ROOT / f"conf/model/{name}.yaml"))
        assert isinstance(values, dict)
        return shape_from({str(key): value for key, value in values.items() if key != "defaults"})
    _, hidden, _, layers, *rest = name.split("-")
    return ModelConfig(int(hidden), int(layers), int(rest[1]) if rest else 1)


def names_of_controls(control: str, rows: Iterable[str]) -> list[str]:
    """Which of these rows are also fine-tuned from random weights: the one called `control`, or all that are of the ten."""
    return [row for row in rows if row == control or (control == ALL and row in TABLE7)]


def collect(directory: Path) -> list[Row]:
    """The ten rows in the paper's order, then TAPE's backbones and the others that `directory` holds, controls last."""
    found: dict[str, dict[str, Result]] = {name: {} for name in TABLE7}
    for result in results.load_all(directory):
        found.setdefault(result.row, {})[result.stage] = result
    order = [*TABLE7, *BASELINES, *FORERUNNERS]

    def rank(name: str) -> tuple[bool, int, str]:
        row = name.removeprefix(SCRATCH)
        return name.startswith(SCRATCH), order.index(row) if row in order else len(order), name

    others = sorted(found.keys() - TABLE7.keys(), key=rank)
    pretrained = {name: of.get(PRETRAIN) for name, of in found.items()}
    places = universes_of(directory)
    rows = [
        Row(
            name,
            directory / name,
            found[name],
            pretrained.get(name.removeprefix(SCRATCH)),
            universes=[place / name for place in places],
        )
        for name in (*TABLE7, *others)
    ]
    for column in COLUMNS:
        _compare(rows, column.key)
    return rows


def universes_of(directory: Path) -> list[Path]:
    """The sweeps that a table over several universes was made of; none of any other directory."""
    file = directory / UNIVERSES
    return [directory / place for place in read_json(file)] if file.is_file() else []


def collect_some(directory: Path) -> list[Row]:
    """As `collect`; `InputError` if there is no result at all."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory")
    rows = collect(directory)
    if not any(row.results for row in rows):
        raise InputError(f"{directory}: no results in it")
    return rows


def choose_shown(rows: list[Row], most: int = SHOWN) -> list[Row]:
    """The rows that a reader is shown, in their order, where there may be ten thousand.

    All of them if they are at most `most`. Else the paper's and TAPE's, and of the others those that rank highest in any
    column.
    """
    if len(rows) <= most:
        return rows
    fixed = {row.name for row in rows if row.name in TABLE7 or row.baseline}
    others = [row for row in rows if row.name not in fixed]
    best_rank = dict.fromkeys((row.name for row in others), len(others))
    for column in COLUMNS:
        scored = [row for row in others if _number(row.cells[column.key].value)]
        for rank, row in enumerate(sorted(scored, key=lambda row: -(row.cells[column.key].value or 0.0))):
            best_rank[row.name] = min(best_rank[row.name], rank)
    chosen = fixed | {*sorted(best_rank, key=lambda name: best_rank[name])[: most - len(fixed)]}
    return [row for row in rows if row.name in chosen]


def _compare(rows: list[Row], key: str) -> None:
    """Fill in the cells of a column."""
    column = _BY_KEY[key]
    for row in rows:
        result = row.results.get(column.stage)
        row.cells[key] = Cell(result.score(column.stage, column.split, column.metric) if result else None)
    scored = [row for row in rows if row.name in TABLE7 and _number(row.cells[key].value)]
    if not scored:
        return
    best = max(scored, key=lambda row: row.cells[key].value or 0.0)
    for row in scored:
        tie = row is best or best.minus(row, key).low <= 0
        row.cells[key] = row.cells[key]._replace(tie=tie)


def _number(value: float | None) -> bool:
    return value is not None and value == value


def problems(rows: list[Row]) -> list[str]:
    """Why these rows do not make one table: missing stages, or results that cannot be compared."""
    found = []
    for row in rows:
        if len(row.missing) == len(STAGES):
            found.append(f"row {row.name} has no result")
        elif row.missing:
            found.append(f"row {row.name} has no result of {', '.join(row.missing)}")
    for column in COLUMNS:
        numbers = {score.n for row in rows if (score := row.cells[column.key].score)}
        if len(numbers) > 1:
            found.append(
                f"rows differ in the proteins scored for {column.title}: {', '.join(map(str, sorted(numbers)))}"
            )
    for stage in STAGES:
        present = [row.results[stage] for row in rows if stage in row.results]
        found += [
            f"rows differ in the {what} of {stage}: {', '.join(map(str, values))}"
            for what, values in _differing(present)
        ]
    return found


def _differing(present: list[Result]) -> Iterable[tuple[str, list[object]]]:
    names = {"source": "source fingerprint", "data": "data fingerprint", "precision": "precision"}
    names |= {"seed": "first seed", "seeds": "number of seeds"}
    of_pretraining = {"scale": "scaling", "steps": "steps", "tokens": "tokens"}
    for name, what in (names | of_pretraining).items():
        scaled = [result for result in present if name not in of_pretraining or result.stage == PRETRAIN]
        values = list({str(getattr(result, name)): getattr(result, name) for result in scaled}.values())
        if len(values) > 1:
            yield what, values
