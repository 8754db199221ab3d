"""The pretraining stage: from a config to weights and a result record, from wherever an earlier attempt left off."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader

from proteinlm import checkpoint, planner, tasks
from proteinlm.config import LanguageModelConfig, MaskedLanguageModelConfig, RunConfig
from proteinlm.data import sources
from proteinlm.data.batches.fixed_shapes import FixedShapes
from proteinlm.data.batches.language_model import (
    PINNED_SEED,
    MaskedBatch,
    MaskedProteins,
    ShareOfSteps,
    training_loader,
    validation_loader,
)
from proteinlm.data.batches.schedule import Schedule
from proteinlm.device import TrainingDevice
from proteinlm.errors import InputError
from proteinlm.launch import processes, signals
from proteinlm.planner import Plan, Proteins, gigabytes
from proteinlm.records import predictions, results
from proteinlm.records.bootstrap import Sample, bootstrap
from proteinlm.records.results import Result, Score
from proteinlm.records.run_directory import CHECKPOINTS, MODEL, PLAN, RESULT
from proteinlm.storage.atomic import own_directory, write_text
from proteinlm.tasks.language_model import LanguageModel
from proteinlm.training.checkpoints import Checkpoints
from proteinlm.training.guard import Guard
from proteinlm.training.report import Report
from proteinlm.training.result import common_fields
from proteinlm.training.tracking import Tracker
from proteinlm.training.trainer import (
    Budget,
    announce,
    build_trainer,
    hardware,
    next_validation,
)

STAGE = "pretrain"
EVALUATIONS = ("valid", "holdout")
"""Splits that are scored: unseen proteins of the training families, and families held out as a whole."""


def directory_of(config: RunConfig) -> Path:
    """Home of the stage: ``output/group/name/pretrain``."""
    return Path(config.output) / config.group / config.name / STAGE


def run(config: RunConfig) -> Result:
    """Pretrain, or go on where an earlier attempt stopped, or return the result that is already there."""
    if config.dry_run:
        raise InputError("dry_run=true is for `proteinlm pretrain` alone")
    directory = directory_of(config)
    reports = processes.is_rank_zero()
    with signals.deferrable(), own_directory(directory, f"pretraining of {config.name}") if reports else nullcontext():
        data = PretrainingData(config)
        finished = directory / RESULT
        # before anything is written: a config that is refused must not own the directory
        planned = None if finished.exists() else data.plan()
        if reports:
            results.claim(directory, config, data=data.corpus.fingerprint)
        if finished.exists():
            result = results.load(finished)
            if (result.config, result.data) == (config.digest(), data.corpus.fingerprint):
                return result
        device = TrainingDevice.choose(config.train, config.strategy)
        return Pretraining(config, directory, data, device, reports, planned or data.plan()).run()


class PretrainingData(L.LightningDataModule):
    """Masked, packed batches of the corpus, from the step that training has reached."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        assert isinstance(config.task, LanguageModelConfig)
        self.config, self.percent = config, config.task.target_percent
        self.longest = config.model.max_positions - 1
        self.corpus = sources.corpus(config.data)
        if (proteins := len(self.corpus.splits["train"])) < config.strategy.data_processes:
            raise InputError(
                f"data: {proteins} proteins to train on are fewer than strategy's {config.strategy.data_processes} processes"
            )
        self.schedule = Schedule(
            self.corpus.splits["train"].lengths(),
            longest=self.longest,
            budget=config.train.micro_batch_tokens,
            per_step=config.train.micro_batches,
            seed=config.seed,
            mask_percent=self.percent,
        )

    def plan(self) -> Plan:
        """The plan of the run on this hardware; raises `InputError` if it cannot fit."""
        device = TrainingDevice.choose(self.config.train, self.config.strategy)
        proteins = Proteins.of(self.corpus.splits["train"].lengths(), self.config.model.max_positions)
        return planner.check(self.config, proteins, hardware(device, self.config))

    def train_dataloader(self) -> DataLoader[MaskedBatch]:
        """Batches up to the next validation."""
        assert self.trainer
        done = self.trainer.global_step
        until = next_validation(done, self.config.train.steps, self.config.train.validations)
        spread = self.config.strategy
        share = ShareOfSteps(
            self.schedule, done, until, spread.data_rank(self.trainer.global_rank), spread.data_processes
        )
        budget = self.config.train
        shapes = FixedShapes(budget.micro_batch_tokens, self.longest + 1, self.percent) if budget.cuda_graphs else None
        proteins = self._masked("train", self.config.seed, shapes)
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        return training_loader(proteins, share, workers=self.config.train.workers, pin_memory=pin_memory)

    def val_dataloader(self) -> list[DataLoader[MaskedBatch]]:
        assert self.trainer
        return [
            validation_loader(
                self._masked(split, PINNED_SEED),
                budget=self.config.train.micro_batch_tokens,
                tokens=self.config.train.validation_tokens,
                rank=self.config.strategy.data_rank(self.trainer.global_rank),
                world=self.config.strategy.data_processes,
                workers=self.config.train.workers,
                pin_memory=self.trainer.strategy.root_device.type == "cuda",
            )
            for split in EVALUATIONS
        ]

    def _masked(self, split: str, seed: int, shapes: FixedShapes | None = None) -> MaskedProteins:
        hidden = isinstance(self.config.task, MaskedLanguageModelConfig)
        return MaskedProteins(
            self.corpus.splits[split],
            longest=self.longest,
            mask_percent=self.percent,
            seed=seed,
            hidden=hidden,
            shapes=shapes,
        )


class Pretraining:
    """One attempt at the stage."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        data: PretrainingData,
        device: TrainingDevice,
        reports: bool,
        planned: Plan,
    ) -> None:
        self.config, self.directory, self.data, self.device, self.reports = config, directory, data, device, reports
        self.planned = planned
        self.checkpoints = directory / CHECKPOINTS
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def run(self) -> Result:
        torch.manual_seed(self.config.seed)
        module = tasks.pretraining(self.config.task.name)(self.config, EVALUATIONS)
        latest = checkpoint.last_good(self.checkpoints, reports=self.reports)
        step = checkpoint.step_of(latest) if latest else 0
        if self.reports:
            results.write_stamp(self.directory, step=step, **self.device.facts)
            announce(self.config.name, self.config.backbone.parameters, self.device, step)
            hours = "{:.3g} to {:.3g} hours".format(*self.planned.hours) if self.planned.hours else "unknown time"
            print(f"planned: {gigabytes(self.planned.memory.total)} in each process, {hours}", file=sys.stderr)
        tracker = Tracker(self.config, STAGE, self.directory, step) if self.reports else None
        report = Report(self.config.name, self.directory, tracker, self.config.train.steps)
        saving = Checkpoints(self.checkpoints, self.config.train.checkpoint_seconds)
        guard = Guard(self.directory, self.config.train.nonfinite, saving, self._records)
        budget = Budget(self.config.train.steps, self.config.train.micro_batches, self.config.optim.max_grad_norm)
        trainer = build_trainer(self.config.strategy, self.device, budget, self.directory, [guard, report, saving])
        try:
            if step < self.config.train.steps:
                trainer.fit(module, datamodule=self.data, ckpt_path=latest, weights_only=True)
            else:  # interrupted between the last checkpoint and the result
                trainer.validate(module, datamodule=self.data, ckpt_path=latest, weights_only=True, verbose=False)
                for callback in (guard, report):
                    callback.load_state_dict(module.resumed[callback.state_key])
            result = self._result(module, report.seconds, guard.skipped)
            modules = {"backbone": module.backbone, "head": module.head}
            checkpoint.save_weights(self.directory / MODEL, modules, self.config.backbone)
            if tracker:
                tracker.conclude({f"{one.task}/{one.split}/{one.metric}": one.value for one in result.scores})
                tracker.refer(self.directory / MODEL)
            if self.reports:
                self._compare(result)
                samples = {(split, "perplexity"): module.samples[split] for split in EVALUATIONS}
                result = replace(result, predictions=predictions.save(self.directory, samples))
                result.save(self.directory)
            if distributed.is_initialized():
                distributed.barrier()  # the others read the weights that the first has written
            return result
        finally:
            report.close()
            if tracker:
                tracker.finish()

    def _compare(self, result: Result) -> None:
        """Write planned and measured speed and memory side by side, and print them in one line."""
        peak = torch.cuda.max_memory_allocated() if self.device.accelerator == "cuda" else None
        speed = result.tokens / max(result.seconds, 1e-9)
        comparison = {
            "tokens_per_second": {"planned": self.planned.speed, "measured": speed},
            "memory": {"planned": asdict(self.planned.memory), "measured": peak},
        }
        write_text(self.directory / PLAN, json.dumps(comparison, indent=2) + "\n")
        planned = "{:,.0f} to {:,.0f}".format(*self.planned.speed) if self.planned.speed else "none"
        memory = f", {gigabytes(peak)} (planned: {gigabytes(self.planned.memory.total)})" if peak else ""
        print(f"{result.row}  {speed:,.0f} tokens/s (planned: {planned}){memory}", file=sys.stderr)

    def _records(self, step: int) -> list[np.ndarray]:
        """The record numbers of the micro-batches of a step."""
        return [plan.records for plan in next(self.data.schedule.steps(step, step + 1))]

    def _result(self, module: LanguageModel, seconds: float, skipped: int) -> Result:
        config, model = self.config, self.config.backbone
        seen = self.data.schedule.totals(config.train.steps)
        return Result(
            **common_fields(config, model, self.device, self.data.corpus.fingerprint),
            stage=STAGE,
            scores=[score(config.task.name, split, module.samples[split]) for split in EVALUATIONS],
            scale=asdict(config.scale),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            steps=config.train.steps,
            tokens=seen.tokens,
            residues=seen.residues,
            epochs=seen.epochs,
            cropped=seen.cropped,
            flops=model.training_flops(seen.tokens, seen.squares, seen.targets),
            seconds=seconds,
            skipped=skipped,
        )


def score(task: str, split: str, losses: Sample) -> Score:
    """Perplexity over all predicted residues of a split, with its interval over proteins."""
    low, high = (math.exp(bound) for bound in bootstrap(losses))
    return Score(task, split, "perplexity", math.exp(losses.estimate()), low, high, losses.n)
