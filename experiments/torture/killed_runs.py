"""Kill real runs at random moments, start them again, and hold them against undisturbed ones.

``python -m experiments.torture --kills 200``

Each episode is one run, from its start to its result, with some kills on the way. Then its weights, scores and predictions
must be those of an undisturbed run bit for bit, and every record must have been learnt from once, in the same order. Goes
on counting where an earlier call with the same ``--output`` stopped; ``torture.json`` and ``torture.md`` have the counts.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked process has no other threads

from safetensors.torch import load_file

from experiments.torture.processes import Attempt, Place, Victim, fill, flip_a_bit, small_disk, truncate
from proteinlm import checkpoint
from proteinlm.launch import entry
from proteinlm.storage.atomic import write_text
from proteinlm.training import finetuning, pretraining

MODEL = (
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.max_positions=128",
    "train.precision=fp32",
    "train.threads=1",
    "train.checkpoint_seconds=0",
    "tracking=csv",
    "data.folds=5",
    "data.members=6",
)
PRETRAIN = (
    *MODEL,
    "name=tiny",
    "train.step_tokens=2048",
    "train.micro_batch_tokens=512",
    "train.tokens=49152",  # 24 steps
    "train.validations=3",
    "train.validation_tokens=1024",
    "optim.learning_rate=1e-2",
)
FINETUNE = (
    *MODEL,
    "model=tiny",
    "task=secondary_structure",
    "task.step_tokens=2048",
    "task.micro_batch_tokens=512",
    "task.tokens=49152",
    "task.epochs=0",
    "task.validations=4",
    "task.valid_proteins=10",
    "task.test_proteins=10",
    "seeds=1",
    "keep_weights=true",
)
STEPS, MICRO_BATCHES = 24, 4
SLOWLY = "optim.learning_rate=1e-3"  # at which rounding does not grow
CLOSE = 1e-4
"""How far weights may be from those of another number of processes."""


@dataclass(frozen=True)
class Scenario:
    """A kind of run and what is done to it."""

    stage: str
    kills: tuple[str, ...]
    layouts: tuple[tuple[int, tuple[str, ...]], ...] = ((1, ()),)
    """Processes and overrides of the first attempt, the second, ...; the last for all that follow."""

    @property
    def exact(self) -> bool:
        return len(self.layouts) == 1


STOPS = ("SIGTERM", "SIGINT", "SIGHUP")
"""Signals that a run answers in good order; here to all its processes."""
ANY = ("SIGKILL", *STOPS)
SCENARIOS = {
    "pretrain": Scenario("pretrain", ANY),
    "finetune": Scenario("finetune", ANY),
    "pretrain, damaged checkpoints": Scenario("pretrain", ("cut", "flip")),
    "finetune, damaged checkpoints": Scenario("finetune", ("cut", "flip")),
    "pretrain, full disk": Scenario("pretrain", ("full disk",)),
    "finetune, full disk": Scenario("finetune", ("full disk",)),
    "ddp on 2": Scenario("pretrain", ("one rank", "all ranks", *STOPS), ((2, ("strategy=ddp",)),)),
    "fsdp on 2": Scenario("pretrain", ("one rank", "all ranks", "cut", "flip", *STOPS), ((2, ("strategy=fsdp",)),)),
    "from 4 to 2 to 1": Scenario(
        "pretrain",
        ("one rank", "SIGKILL"),
        ((4, ("strategy=fsdp", SLOWLY)), (2, ("strategy=ddp", SLOWLY)), (1, (SLOWLY,))),
    ),
}


@dataclass
class Episode:
    """What came of one run."""

    scenario: str
    kills: dict[str, int] = field(default_factory=dict)
    fell_back: int = 0
    """Times that a damaged checkpoint was passed over."""
    faults: list[str] = field(default_factory=list)
    """What must not be: another weight, a record skipped or repeated, a start from a damaged checkpoint."""
    difference: float = 0.0
    """The largest of any weight, where the number of processes changed."""
    attempts: int = 0
    seconds: float = 0.0


@dataclass
class Reference:
    """An undisturbed run."""

    outcome: dict[str, str]
    seen: dict[Place, list[int]]
    seconds: float
    """About what a run takes at the moment, so that kills fall into it."""
    weights: Path


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    log = options.output / "episodes.jsonl"
    done = [Episode(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    began, references = time.monotonic(), {}
    options.output.mkdir(parents=True, exist_ok=True)
    names = options.only or list(SCENARIOS)
    while _count(done) < options.kills and time.monotonic() - began < options.seconds:
        name = min(names, key=lambda name: _count(e for e in done if e.scenario == name))
        chance = random.Random(f"{options.seed} {len(done)}")
        scenario = SCENARIOS[name]
        key = (scenario.stage, scenario.layouts if scenario.exact else 0)
        if key not in references:
            references[key] = run_undisturbed(scenario, options.output / f"undisturbed-{len(references)}")
        done.append(KilledRun(name, references[key], options.output / "run", chance).episode())
        with log.open("a") as file:
            file.write(json.dumps(asdict(done[-1])) + "\n")
        print(f"{_count(done):4} kills  {name}: {done[-1].faults or 'as undisturbed'}", file=sys.stderr, flush=True)
    table = report(done)
    write_text(options.output / "torture.json", json.dumps([asdict(episode) for episode in done], indent=1) + "\n")
    write_text(options.output / "torture.md", table)
    print(table, end="")
    return 1 if any(episode.faults for episode in done) else 0


def report(episodes: list[Episode]) -> str:
    """A line for each scenario, and the sum."""
    lines = ["| scenario | runs | killed | how | damaged, passed over | faults |", "|:--|--:|--:|:--|--:|--:|"]
    for name in [*dict.fromkeys(episode.scenario for episode in episodes), ""]:
        of = [episode for episode in episodes if name in ("", episode.scenario)]
        kinds = sum((Counter(episode.kills) for episode in of), Counter())
        how = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())) if name else ""
        faults, fell_back = sum(len(episode.faults) for episode in of), sum(episode.fell_back for episode in of)
        lines.append(f"| {name or 'all'} | {len(of)} | {_count(of)} | {how} | {fell_back} | {faults} |")
    furthest = max((episode.difference for episode in episodes), default=0.0)
    lines += ["", f"Largest difference of a weight where the number of processes changed: {furthest:.1e}; elsewhere 0."]
    lines += [f"- {episode.scenario}: {fault}" for episode in episodes for fault in episode.faults]
    return "\n".join(lines) + "\n"


def _count(episodes: Any) -> int:
    return sum(sum(episode.kills.values()) for episode in episodes)


def work(stage: str, output: Path, processes: int, overrides: tuple[str, ...]) -> Callable[[], object]:
    """What one process of a run does."""
    given = PRETRAIN if stage == "pretrain" else FINETUNE
    spread = (*overrides, f"strategy.devices={processes}", f"output={output}")
    config = entry.compose(stage, [*given, *spread])
    run: Callable[[Any], object] = pretraining.run if stage == "pretrain" else finetuning.run
    return lambda: run(config)


def home(stage: str, output: Path) -> Path:
    return output / ("single/tiny/pretrain" if stage == "pretrain" else "single/scratch/secondary_structure_q3")


def checkpoints(stage: str, output: Path) -> Path:
    return home(stage, output) / ("checkpoints" if stage == "pretrain" else "seed-0/checkpoints")


def weights(stage: str, output: Path) -> Path:
    """The file that a finished run leaves."""
    place = home(stage, output)
    return next(place.glob("model/model.safetensors" if stage == "pretrain" else "seed-0/best/*/model.safetensors"))


def outcome(stage: str, output: Path) -> dict[str, str]:
    """Fingerprints of what a finished run leaves."""
    predictions = home(stage, output) / "predictions.arrow"
    files = [weights(stage, output), *([predictions] if stage == "finetune" else [])]
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return sums | {"scores": json.dumps(json.loads((home(stage, output) / "result.json").read_text())["scores"])}


def run_undisturbed(scenario: Scenario, output: Path) -> Reference:
    shutil.rmtree(output, ignore_errors=True)
    processes, overrides = scenario.layouts[0] if scenario.exact else scenario.layouts[-1]
    victim = Victim(work(scenario.stage, output, processes, overrides), output / "seen", processes)
    victim.start()
    attempt = victim.end("")
    if any(attempt.codes):
        raise RuntimeError(f"an undisturbed run failed: {attempt.said}")
    assert attempt.seen.keys() == {(step, number) for step in range(STEPS) for number in range(MICRO_BATCHES)}
    stage = scenario.stage
    return Reference(outcome(stage, output), attempt.seen, attempt.seconds, weights(stage, output))


class KilledRun:
    """One run, killed and started again until it has its result."""

    def __init__(self, name: str, reference: Reference, output: Path, chance: random.Random) -> None:
        self.scenario, self.reference, self.output, self.chance = SCENARIOS[name], reference, output, chance
        self.notes = output.with_name("notes")  # of the harness, which must not suffer when the run's disk is full
        self.outcome = Episode(name)
        self.learnt: dict[Place, list[int]] = {}
        self.damaged = ""
        self.mounted = False

    def episode(self) -> Episode:
        began = time.monotonic()
        for place in (self.output, self.notes):
            shutil.rmtree(place, ignore_errors=True)
        needs_disk = "full disk" in self.scenario.kills
        kills = self.chance.randint(2, 5)
        with small_disk(self.output, 16) if needs_disk else _Nowhere() as self.mounted:
            finished = False
            while not finished and self.outcome.attempts < 3 * kills + 4:
                killing = sum(self.outcome.kills.values()) < kills
                finished = self._attempt(killing)
            if not finished:
                self.outcome.faults.append("it does not get to its end")
            else:
                self._compare()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _attempt(self, killing: bool) -> bool:
        """Start once more; whether it came to its result."""
        number, stage = self.outcome.attempts, self.scenario.stage
        self.outcome.attempts += 1
        processes, overrides = self.scenario.layouts[min(number, len(self.scenario.layouts) - 1)]
        directory = checkpoints(stage, self.output)
        kept = sorted(directory.glob("step-*.ckpt")) if directory.exists() else []
        good = [file for file in kept if file.name != self.damaged]
        kind = self.chance.choice(self.scenario.kills) if killing else ""
        victim = Victim(work(stage, self.output, processes, overrides), self.notes / str(number), processes)
        if kind == "full disk" and not self.mounted and len(kept) == 0:
            victim.file_bytes = 100_000  # less than a checkpoint has
        victim.start()
        attempt = victim.end(self._kill(victim, kind)) if killing else victim.end("")
        self._account(attempt, checkpoint.step_of(good[-1]) if good else 0)
        if killing:
            self.reference.seconds *= 1.05 if attempt.killed else 0.7
        if attempt.killed:
            kind = attempt.killed
            if kind in STOPS:
                self._judge_stop(attempt, getattr(signal, kind))
            self.outcome.kills[kind] = self.outcome.kills.get(kind, 0) + 1
            if kind in ("cut", "flip"):
                self._damage(directory, kind)
            return False
        if any(attempt.codes):
            lines = [line for line in attempt.said.splitlines() if "Error" in line or line.startswith("error")]
            self.outcome.faults.append(f"exit codes {attempt.codes}: {lines}")
            shutil.copytree(self.output, self.output.with_name(f"failed-{self.outcome.attempts}"), dirs_exist_ok=True)
        return not any(attempt.codes)

    def _kill(self, victim: Victim, kind: str) -> str:
        """End it at a random moment; by what, or nothing if it was sooner."""
        if victim.file_bytes:
            victim.wait(60)
            return kind
        if victim.wait(self.chance.uniform(0.02, 0.9) * self.reference.seconds):
            return ""
        everyone = list(range(victim.processes))
        if kind == "full disk":
            if not self.mounted:
                return ""
            ballast = fill(self.output)
            ended = victim.wait(60)
            ballast.unlink()
            if not ended:
                self.outcome.faults.append("it goes on with a full disk")
            return kind if self._failed(victim) else ""
        number = getattr(signal, kind) if kind.startswith("SIG") else signal.SIGKILL
        victim.kill(number, [self.chance.choice(everyone)] if kind == "one rank" else everyone)
        return kind if self._failed(victim) else ""

    def _failed(self, victim: Victim) -> bool:
        """Whether any of its processes did not come to a good end."""
        states = [os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) for pid in victim.pids]
        return any(state and (state.si_code != os.CLD_EXITED or state.si_status) for state in states)

    def _judge_stop(self, attempt: Attempt, number: int) -> None:
        """Every process must end with 128 + the signal, and the first must say in one line that the run can go on."""
        fault = self.outcome.faults.append
        # a process that waits for others to come does so in C, where it notices no signal: a launcher ends it
        excused = {-signal.SIGKILL} if len(attempt.codes) > 1 and not attempt.seen else set()
        if set(attempt.codes) - excused != {128 + number}:
            fault(f"exit codes {attempt.codes} after {signal.Signals(number).name}")
        lines = attempt.said.count("the same command goes on")
        if lines != 1 and not excused:
            fault(f"{lines} lines say that it was stopped")

    def _damage(self, directory: Path, kind: str) -> None:
        """Cut the newest checkpoint, or flip a bit of it, if there is one before it."""
        kept = sorted(directory.glob("step-*.ckpt")) if directory.exists() else []
        if len(kept) < 2:
            return
        parts = sorted(p for p in kept[-1].iterdir() if p.stat().st_size) if kept[-1].is_dir() else [kept[-1]]
        (truncate if kind == "cut" else flip_a_bit)(self.chance.choice(parts), self.chance)
        self.damaged = kept[-1].name

    def _account(self, attempt: Attempt, expected: int) -> None:
        """Add what was seen to what the state has learnt from: all before the checkpoint that was started from."""
        fault = self.outcome.faults.append
        if self.damaged and "going back to step" in attempt.said:
            self.outcome.fell_back += 1
            self.damaged = ""
        if not attempt.seen:
            return
        first = min(step for step, _ in attempt.seen)
        if first != expected:
            fault(f"it went on after step {first}, its last good checkpoint was of step {expected}")
        if self.damaged:
            fault(f"nothing was said of the damaged {self.damaged}")
            self.damaged = ""
        self.learnt = {place: records for place, records in self.learnt.items() if place[0] < first}
        self.learnt |= attempt.seen

    def _compare(self) -> None:
        """Hold the finished run against the undisturbed one."""
        fault, reference = self.outcome.faults.append, self.reference
        if self.learnt != reference.seen:
            places = [p for p in {*self.learnt, *reference.seen} if self.learnt.get(p) != reference.seen.get(p)]
            fault(f"other records than an undisturbed run's in {len(places)} micro-batches, first {min(places)}")
        if self.scenario.exact:
            found = outcome(self.scenario.stage, self.output)
            for name, wanted in reference.outcome.items():
                if found[name] != wanted:
                    fault(f"{name} is not that of an undisturbed run")
            return
        ours, theirs = load_file(weights(self.scenario.stage, self.output)), load_file(reference.weights)
        # a bias of keys has no effect, and no gradient but noise
        far = {n: float((ours[n] - theirs[n]).abs().max()) for n in theirs if "query_key_value.bias" not in n}
        self.outcome.difference = max(far.values())
        if self.outcome.difference > CLOSE:
            fault(f"weights differ by {self.outcome.difference:.1e} after another number of processes")


class _Nowhere:
    def __enter__(self) -> bool:
        return False

    def __exit__(self, *error: object) -> None: ...


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.torture", description="Kill runs and see what is lost."
    )
    parser.add_argument("--kills", type=int, default=200, help="stop after so many, over all calls")
    parser.add_argument("--seconds", type=float, default=3600, help="start no episode after so many")
    parser.add_argument("--output", type=Path, default=Path("runs/torture"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="of these scenarios; may be repeated")
    return parser.parse_args(arguments)
