"""The fine-tuning stage: one task, several seeds, each restartable; then all test splits once, with the best weights.

A seed leaves ``seed-<n>/selected.json`` when its training has ended and its best weights are chosen. The test splits are
not read before all seeds have; the result is written when they are scored.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import distributed

from proteinlm import checkpoint
from proteinlm.checkpoint import Weights, best_of, discard_all_but
from proteinlm.config import EvaluateConfig, FinetuneConfig, LoraConfig, ModelConfig, PretrainedConfig
from proteinlm.device import TrainingDevice
from proteinlm.errors import InputError
from proteinlm.launch import processes, signals
from proteinlm.models import lora
from proteinlm.models.lora import Adapter
from proteinlm.planner import finetuning
from proteinlm.records import contact_map, predictions, results
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.results import Result, Score
from proteinlm.records.run_directory import BEST, CHECKPOINTS, CONTACT_MAP, RESULT, SELECTED
from proteinlm.storage.atomic import own_directory, write_text
from proteinlm.tasks.labelled import LabelledTask
from proteinlm.training.best_weights import Selection
from proteinlm.training.checkpoints import Checkpoints
from proteinlm.training.finetuning_data import Batches, Splits
from proteinlm.training.guard import Guard
from proteinlm.training.report import Report, Scoring
from proteinlm.training.result import common_fields
from proteinlm.training.tracking import Tracker
from proteinlm.training.trainer import Budget, build_trainer, hardware

Samples = dict[tuple[str, str], Sample]
"""The data that the score of each (split, metric) is computed from."""


def run(config: FinetuneConfig) -> Result:
    """Fine-tune, or go on where an earlier attempt stopped, or return the result that is already there."""
    directory, reports = config.directory, processes.is_rank_zero()
    with (
        signals.deferrable(),
        own_directory(directory, f"{config.task.label} of {config.name}") if reports else nullcontext(),
    ):
        start = Start.of(config)
        config.strategy.check(start.shape)
        splits = Splits(config, start.shape)
        finished = directory / RESULT
        device = TrainingDevice.choose(config.train, config.strategy)
        if not finished.exists():  # before anything is written: a config that is refused must not own the directory
            longest = int(splits.train.lengths.max(initial=0))
            finetuning.check(config, start.shape, longest, hardware(device, config))
        if reports:
            results.claim(directory, config, data=splits.source.fingerprint, start=start.fingerprint)
        if finished.exists():
            result, inputs = results.load(finished), (splits.source.fingerprint, start.fingerprint)
            if (result.config, result.data, result.start) == (config.digest(), *inputs):
                if config.keep_weights and not config.kept_weights.exists():
                    raise InputError(
                        f"{directory} is finished and its weights were not kept: for keep_weights=true choose another name, "
                        "or remove it"
                    )
                return result
        if reports:
            splits.announce()
        return Finetuning(config, start, splits, device).run()


def evaluate(config: EvaluateConfig) -> list[Score]:
    """Score on one split the weights that `run` left behind because of ``keep_weights``."""
    start = Start.of(config)
    stage = Finetuning(config, start, Splits(config, start.shape), TrainingDevice.choose(config.train, config.strategy))
    with signals.deferrable():
        return stage.scores(stage.samples((config.split,)))


@dataclass(frozen=True)
class Start:
    """The backbone that fine-tuning starts from."""

    shape: ModelConfig
    weights: Weights | None
    """None if the weights are random."""

    @classmethod
    def of(cls, config: FinetuneConfig) -> "Start":
        if isinstance(config.model, PretrainedConfig):
            weights = checkpoint.load_weights(Path(config.model.path))
            return cls(weights.config, weights)
        assert isinstance(config.model, ModelConfig)
        return cls(config.model, None)

    @property
    def fingerprint(self) -> str:
        return self.weights.fingerprint if self.weights else "scratch"


@dataclass(frozen=True)
class Selected:
    """The outcome of training with one seed."""

    step: int
    """Of the best weights."""
    score: float
    """Of the best weights, on the validation split."""
    steps: int
    tokens: int
    residues: int
    epochs: float
    flops: float
    seconds: float
    skipped: int = 0


class Finetuning:
    """One attempt at the stage."""

    def __init__(self, config: FinetuneConfig, start: Start, splits: Splits, device: TrainingDevice) -> None:
        self.config, self.start, self.splits, self.device = config, start, splits, device
        self.directory, self.reports = config.directory, processes.is_rank_zero()
        self.seeds = range(config.seed, config.seed + config.seeds)
        self.trackers: dict[int, Tracker] = {}

    def run(self) -> Result:
        if self.reports:
            results.write_stamp(self.directory, **self.device.facts)
        try:
            selected = [self._selected(seed) for seed in self.seeds]
            samples = self.samples(self.splits.test_splits, draw=True)
            self._conclude(samples)
        finally:
            for tracker in self.trackers.values():
                tracker.finish()
        result = self._result(selected, self.scores(samples))
        if self.reports:
            self._report_unscored(samples)
            result = replace(result, predictions=predictions.save(self.directory, samples))
            result.save(self.directory)
            if not self.config.keep_weights:
                for seed in self.seeds:
                    shutil.rmtree(self._home(seed) / BEST)
        return result

    def samples(self, splits: tuple[str, ...], draw: bool = False) -> Samples:
        """Score `splits` with the best weights of every seed, and `draw` what the first has a figure of."""
        proteins = {split: self.splits.to_score(split) for split in splits}
        total = sum(len(each.letters) for each in proteins.values())
        runs = []
        for seed in self.seeds:
            module = self._module(seed)
            checkpoint.restore(module.parts(), checkpoint.load_weights(self._best(seed)))
            module.evaluate_on(*splits)
            if draw and seed == self.config.seed:
                module.draw(proteins, seed, self.directory if self._leads() else None)
            scoring = Scoring(self._title(seed), total)
            self._trainer([scoring]).validate(module, datamodule=Batches(self.config, proteins), verbose=False)
            runs.append(module.samples)
        return {
            (split, metric): type(sample).over_seeds([run[split][metric] for run in runs])
            for split in splits
            for metric, sample in runs[0][split].items()
        }

    def scores(self, samples: Samples) -> list[Score]:
        """Means over the seeds, with intervals over proteins and seeds."""
        scores = []
        for (split, metric), sample in samples.items():
            low, high = (None if isnan(bound) else bound for bound in bootstrap(sample))
            scores.append(Score(self.config.task.label, split, metric, sample.estimate(), low, high, sample.n))
        return scores

    def _conclude(self, samples: Samples) -> None:
        """Tell the trackers of this attempt what each seed has come to on the splits it is judged by."""
        for seed, tracker in self.trackers.items():
            place = self.seeds.index(seed)
            scores = {name: sample.evaluate(np.ones((1, sample.n), np.int64)) for name, sample in samples.items()}
            label = self.config.task.label
            tracker.conclude(
                {f"{label}/{split}/{name}": float(each[0, place]) for (split, name), each in scores.items()}
            )
            if seed == self.config.seed and (self.directory / CONTACT_MAP).exists():
                tracker.show(contact_map.load(self.directory))
            if self.config.keep_weights:
                tracker.refer(self._best(seed))

    def _leads(self) -> bool:
        """Whether this process is the first of those that share the matrices of a model, and so see the same proteins."""
        rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
        return rank % self.config.strategy.tensor_size == 0

    def _report_unscored(self, samples: Samples) -> None:
        """Name the records that have nothing to score, such as a chain without a known state."""
        for split in self.splits.test_splits:
            sample = samples[split, self.splits.task.score]
            if len(records := sample.uncounted):
                named = ", ".join(map(str, records[:10])) + (", ..." if len(records) > 10 else "")
                of = f"{len(records):,} of {len(sample.record):,} proteins"
                print(
                    f"{self.config.task.label}: nothing to score in {of} of {split}: records {named}", file=sys.stderr
                )

    def _title(self, seed: int) -> str:
        return f"{self.config.name} {self.config.task.label} seed {seed}"

    def _home(self, seed: int) -> Path:
        return self.directory / f"seed-{seed}"

    def _best(self, seed: int) -> Path:
        """Directory of a seed's best weights."""
        record = self._home(seed) / SELECTED
        if not record.exists():
            raise InputError(f"{self._home(seed)}: no {SELECTED} in it: nothing was fine-tuned there")
        best = best_of(self._home(seed) / BEST, json.loads(record.read_text())["step"])
        if not best.is_dir():
            raise InputError(f"{best}: the weights were not kept: fine-tune under another name with keep_weights=true")
        return best

    def _module(self, seed: int) -> LabelledTask:
        torch.manual_seed(seed)
        module = self.splits.module()
        if self.start.weights:
            checkpoint.restore({"backbone": module.backbone}, self.start.weights)
        return module

    def _adapter(self) -> Adapter | None:
        """The adapter that is trained in place of the backbone's weights, if there is one."""
        config, weights = self.config.adapter, self.start.weights
        if not isinstance(config, LoraConfig):
            return None
        base = str(Path(weights.origin).absolute()) if weights else ""
        return Adapter(config, base, weights.fingerprint if weights else "")

    def _announce(self, module: LabelledTask, seed: int) -> None:
        """Print how many parameters are trained."""
        if self.reports and seed == self.seeds[0]:
            trained, all_of_them = counts(module)
            print(f"{self.config.adapter.name}: {trained:,} of {all_of_them:,} parameters are trained", file=sys.stderr)

    def _trainer(self, callbacks: Sequence[L.Callback] = (), steps: int = 1) -> L.Trainer:
        task = self.config.task
        budget = Budget(steps, task.micro_batches, task.optim.max_grad_norm)
        return build_trainer(self.config.strategy, self.device, budget, self.directory, list(callbacks))

    def _selected(self, seed: int) -> Selected:
        """Train with one seed, unless that has been done."""
        record = self._home(seed) / SELECTED
        selected = Selected(**json.loads(record.read_text())) if record.exists() else self._train(seed)
        if self.reports:
            write_text(record, json.dumps(asdict(selected), indent=2) + "\n")
            discard_all_but(self._home(seed) / BEST, selected.step)
            shutil.rmtree(self._home(seed) / CHECKPOINTS, ignore_errors=True)
        if distributed.is_initialized():
            distributed.barrier()  # the others read what the first has written
        return selected

    def _train(self, seed: int) -> Selected:
        config, task, home = self.config, self.config.task, self._home(seed)
        checkpoints = home / CHECKPOINTS
        checkpoints.mkdir(parents=True, exist_ok=True)
        schedule = self.splits.schedule(seed)
        steps = self.splits.steps(schedule)
        batches = Batches(config, {"valid": self.splits.valid}, self.splits.train, schedule, steps)
        module = self._module(seed)
        module.steps = steps
        adapter = self._adapter()
        if adapter:
            lora.adapt(module.backbone, adapter.config)
            self._announce(module, seed)
        module.prepare(self.splits.train)
        latest = checkpoint.last_good(checkpoints, reports=self.reports)
        done = checkpoint.step_of(latest) if latest else 0
        if self.reports:
            self.trackers[seed] = Tracker(config, task.label, home, done, seed)
        tracker = self.trackers.get(seed)
        report = Report(self._title(seed), self.directory, tracker, steps)
        selection = Selection(home / BEST, self.start.shape, task.patience, adapter)
        saving = Checkpoints(checkpoints, config.train.checkpoint_seconds)

        def records(step: int) -> list[np.ndarray]:
            return [self.splits.train.records[plan.records] for plan in next(schedule.steps(step, step + 1))]

        guard = Guard(home, config.train.nonfinite, saving, records)
        trainer = self._trainer([guard, report, selection, saving], steps)
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=latest, weights_only=True)
        finally:
            report.close()
        seen = schedule.totals(trainer.global_step)
        # a frozen backbone has no backward pass, which costs two forward ones; an adapted one half of it
        passes = 1 / 3 if module.frozen else 2 / 3 if adapter else 1
        return Selected(
            step=selection.best_step(),
            score=selection.score,
            steps=trainer.global_step,
            tokens=seen.tokens,
            residues=seen.residues,
            epochs=seen.epochs,
            flops=passes * self.start.shape.training_flops(seen.tokens, seen.squares, targets=0),
            seconds=report.seconds,
            skipped=guard.skipped,
        )

    def _result(self, selected: list[Selected], scores: list[Score]) -> Result:
        config, shape = self.config, self.start.shape
        with torch.device("meta"):
            module = self.splits.module()
            parameters = counts(module)[1]
            if isinstance(config.adapter, LoraConfig):
                lora.adapt(module.backbone, config.adapter)
        return Result(
            **common_fields(config, shape, self.device, self.splits.source.fingerprint),
            stage=config.task.label,
            scores=scores,
            scale={},
            parameters=parameters,
            trained=counts(module)[0],
            steps=sum(run.steps for run in selected),
            tokens=sum(run.tokens for run in selected),
            residues=sum(run.residues for run in selected),
            epochs=sum(run.epochs for run in selected) / len(selected),
            cropped=0,
            flops=sum(run.flops for run in selected),
            seconds=sum(run.seconds for run in selected),
            seeds=config.seeds,
            start=self.start.fingerprint,
            skipped=sum(run.skipped for run in selected),
        )


def counts(module: torch.nn.Module) -> tuple[int, int]:
    """The number of parameters that are trained, and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
