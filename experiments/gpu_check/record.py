"""What the check has found: figures that are written as they come, and the two files made of them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from proteinlm.storage.atomic import write_text

DONE = "done"
NOT_RUN = "not run: "


class Needs(Exception):
    """What a part would need to run at all, in one line; a machine without it is not wrong."""


class Finding(NamedTuple):
    """One measured number."""

    what: str
    value: float
    unit: str = ""
    most: float | None = None
    """What a correct machine stays below; None for a number that only informs."""

    @property
    def fails(self) -> bool:
        return self.most is not None and not self.value <= self.most  # nan fails


@dataclass
class Outcome:
    """How one part ended, and what it had found until then."""

    part: str
    ended: str
    """``done``, ``not run: ...``, or why it ended early."""
    seconds: float
    findings: list[Finding] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        return self.ended_early or any(finding.fails for finding in self.findings)

    @property
    def ended_early(self) -> bool:
        return self.ended != DONE and not self.ended.startswith(NOT_RUN)


def append(file: Path, finding: Finding) -> None:
    """Add one line to `file`, at once: the process may not live to write another."""
    with file.open("a") as lines:
        lines.write(json.dumps(finding._asdict()) + "\n")


def read(file: Path) -> Iterator[Finding]:
    """The findings in `file`; a last line that a killed process left unfinished is passed over."""
    if not file.exists():
        return
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield Finding(**json.loads(line))


def write(directory: Path, machine: dict[str, str], outcomes: list[Outcome]) -> None:
    """Write ``gpu_check.json`` and ``gpu_check.md``; both are whole after each part."""
    record = {"machine": machine, "parts": [_with_named_findings(outcome) for outcome in outcomes]}
    write_text(directory / "gpu_check.json", json.dumps(record, indent=2) + "\n")
    write_text(directory / "gpu_check.md", table(machine, outcomes))


def table(machine: dict[str, str], outcomes: list[Outcome]) -> str:
    """A Markdown table of all findings, the failing ones marked."""
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += ["| part | what | found | at most | |", "|:--|:--|--:|--:|:--|"]
    for outcome in outcomes:
        for finding in outcome.findings:
            bound = "" if finding.most is None else f"{finding.most:.3g}"
            verdict = "" if finding.most is None else "**fails**" if finding.fails else "right"
            lines.append(f"| {outcome.part} | {finding.what} | {_shown(finding)} | {bound} | {verdict} |")
        ended = "**fails**" if outcome.ended_early else ""
        lines.append(f"| {outcome.part} | {outcome.ended} | {outcome.seconds:.0f} s | | {ended} |")
    return "\n".join(lines) + "\n"


def _shown(finding: Finding) -> str:
    value = finding.value
    digits = f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.3g}"
    return f"{digits} {finding.unit}".rstrip()


def _with_named_findings(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"findings": [finding._asdict() for finding in outcome.findings]}
