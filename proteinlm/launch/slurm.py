"""Jobs of a sweep on Slurm, as submitit starts them: their state without accounting, and what became of those that died.

submitit asks `sacct`, which many clusters switch off: it then takes every job for UNKNOWN and waits for ever.
"""

import re
import sys
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import UncompletedJobError
from submitit.slurm import slurm

from proteinlm.errors import InputError

ENDED = "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"
"""States that a job does not leave. In all others (CONFIGURING, SUSPENDED, ...), which submitit would take for ends, it may
still run."""


def adapt() -> None:
    """From now on, submitit's Slurm jobs are `ReportedJob`."""
    slurm.SlurmJob = ReportedJob
    slurm.SlurmExecutor.job_class = ReportedJob


class Watcher(slurm.SlurmInfoWatcher):
    """Reads the state of jobs from ``scontrol``, which forgets them some minutes after their end."""

    def __init__(self) -> None:
        super().__init__(delay_s=10)

    def _make_command(self) -> list[str] | None:
        return ["scontrol", "show", "job", "--oneliner"] if self._registered - self._finished else None

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        found = states(string if isinstance(string, str) else string.decode())
        for job in self._registered - self._finished - found.keys():
            if job in self._info_dict:  # it was there before
                found[job] = {"State": "FORGOTTEN"}
        return found


def states(jobs: str) -> dict[str, dict[str, str]]:
    """State and node of each job, by its number or array number, of what ``scontrol show job --oneliner`` printed."""
    found = {}
    for line in jobs.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" not in fields:
            continue
        name = fields["JobId"]
        if "ArrayJobId" in fields:
            name = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        known = fields["JobState"] == "PENDING" or fields["JobState"] in ENDED
        state = {"State": fields["JobState"] if known else "RUNNING", "NodeList": fields.get("NodeList", "")}
        for single in _expanded(name):
            found[single] = state
    return found


def _expanded(name: str) -> list[str]:
    """The tasks of an array that wait together: ``7_0-2,5%4`` is 7_0, 7_1, 7_2 and 7_5."""
    job, _, tasks = name.partition("_")
    if not tasks:
        return [job]
    ranges = [part.split("-") for part in tasks.split("%")[0].split(",")]
    return [f"{job}_{task}" for part in ranges for task in range(int(part[0]), int(part[-1]) + 1)]


class ReportedJob(slurm.SlurmJob):
    """A job that died is told by name, and counts as failed; the others go on."""

    watcher = Watcher()

    def results(self) -> list[Any]:
        try:
            return super().results()
        except UncompletedJobError as error:
            overrides = list(self.submission().args[0])
            cause = str(error).strip().splitlines()[-1] if str(error).strip() else "no result"
            message = f"{' '.join(overrides)}: job {self.job_id} {self.state}: {cause}, see {self.paths.stderr}"
            print(f"failed: {message}", file=sys.stderr, flush=True)
            failed = JobReturn(overrides=overrides, status=JobStatus.FAILED)
            failed.return_value = InputError(message)
            return [failed]
