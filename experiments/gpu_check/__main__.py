"""The first minutes on a new GPU: ``python -m experiments.gpu_check``.

Checks that the machine computes what it should, times the shapes of Table 7, and pretrains for three minutes. It needs no
download, and neither Hydra nor wandb, fairscale or lmdb. Each part is a process of its own: one that fails, hangs or dies
costs none of the others. ``gpu_check.json`` and ``gpu_check.md`` are written after each part.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from experiments.gpu_check import correctness, options, record, speed
from experiments.gpu_check.record import DONE, NOT_RUN, Finding, Needs, Outcome
from experiments.gpu_check.sizes import Sizes, on_gpu, tiny
from proteinlm.errors import InputError
from proteinlm.launch import entry

Part = Callable[[Sizes], Iterator[Finding]]
PARTS: dict[str, tuple[Part, float]] = {
    "attention": (correctness.attention, 60),
    "training step": (correctness.training_step, 60),
    "compiled": (correctness.compiled, 75),
    "resumed": (correctness.resumed, 60),
    "deterministic": (correctness.deterministic, 60),
    "memory": (correctness.memory, 60),
    "pretraining": (speed.pretraining_run, 270),
    "peers": (speed.peers, 60),
    "shapes": (speed.shapes, 150),
    "fp8": (options.fp8, 90),
    "CUDA graphs": (options.cuda_graphs, 90),
}
"""The parts in their order, and the seconds that each may take at most."""
SKIPPED = 77
"""Exit status of a part's process that lacks what it needs, as test drivers have it."""
GRACE = 5.0
"""Seconds that a part which is over its time has to end."""


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    sizes = tiny() if chosen.tiny else _sizes_on_gpu()
    if chosen.findings:  # this is a part's own process
        try:
            for finding in PARTS[chosen.part[0]][0](sizes):
                record.append(chosen.findings, finding)
        except Needs as needs:
            print(needs, file=sys.stderr)
            return SKIPPED
        return 0
    chosen.output.mkdir(parents=True, exist_ok=True)
    machine, outcomes, began = describe(sizes.device), [], time.monotonic()
    record.write(chosen.output, machine, outcomes)
    for part in chosen.part or PARTS:
        left = chosen.seconds - (time.monotonic() - began)
        outcomes.append(run_part(part, min(PARTS[part][1], left), chosen.tiny))
        record.write(chosen.output, machine, outcomes)
        bad = sum(finding.fails for finding in outcomes[-1].findings)
        print(
            f"{part}: {outcomes[-1].ended}, {len(outcomes[-1].findings)} figures, {bad} wrong, "
            f"{outcomes[-1].seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    print(record.table(machine, outcomes), end="")
    print(f"written: {chosen.output}/gpu_check.json, .md")
    return 1 if any(outcome.fails for outcome in outcomes) else 0


def run_part(part: str, seconds: float, small: bool) -> Outcome:
    """One part in a process of its own; what it had found stays, however it ends."""
    if seconds <= 0:
        return Outcome(part, "no time left", 0.0)
    began = time.monotonic()
    with TemporaryDirectory() as place:
        findings = Path(place) / "findings.jsonl"
        with subprocess.Popen(command_of(part, findings, small), stderr=subprocess.PIPE, text=True) as process:
            try:
                _, said = process.communicate(timeout=seconds)
                ended = DONE if process.returncode == 0 else why(process.returncode, said)
            except subprocess.TimeoutExpired:
                ended = f"stopped after its {seconds:.0f} s"
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
            finally:
                process.kill()
        return Outcome(part, ended, time.monotonic() - began, list(record.read(findings)))


def command_of(part: str, findings: Path, small: bool) -> list[str]:
    """The command of a part's own process, which appends to the file `findings`."""
    command = [sys.executable, "-m", "experiments.gpu_check", "--part", part, "--findings", str(findings)]
    return command + ["--tiny"] * small


def why(status: int, said: str) -> str:
    """How a process ended, in one line: its signal, or its last words."""
    if status < 0:
        return f"killed by signal {-status}"
    last = next((line.strip()[:200] for line in reversed(said.splitlines()) if line.strip()), "without a word")
    return NOT_RUN + last if status == SKIPPED else f"exit status {status}: {last}"


def describe(device: torch.device) -> dict[str, str]:
    """The hardware and the versions that the figures belong to."""
    from proteinlm.device import name_of
    from proteinlm.records.results import provenance

    facts = {"machine": name_of(device), "python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        facts |= {"CUDA": str(torch.version.cuda), "capability": f"{major}.{minor}"}
    return facts | {"commit": provenance().commit}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check", description="Check and time a GPU.")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_check"))
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=475, help="all parts together take at most so many")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, in seconds: everything but the kernels")
    parser.add_argument("--findings", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _sizes_on_gpu() -> Sizes:
    from experiments.bench.shapes import shapes

    if not torch.cuda.is_available():
        raise InputError("gpu_check: torch finds no CUDA device; --tiny tries the check itself on a CPU")
    return on_gpu(tuple(shapes()))


if __name__ == "__main__":
    entry.command(main)
