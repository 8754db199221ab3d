"""Reads back what wandb has written offline: LevelDB's log format, one protocol buffer per record."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto import wandb_internal_pb2 as messages

HEADER, BLOCK, FULL, LAST = 7, 32768, 1, 4


class Written(NamedTuple):
    """One run, as a file has it."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    metrics: dict[str, str]
    """Step metric by name or pattern."""
    artifacts: list[Any]
    ended: bool


def runs(directory: Path) -> list[Written]:
    """Every attempt at every run below `directory`, by name of the file, once wandb has written their ends."""
    until = time.monotonic() + 60  # its own process writes them, a moment after it was told
    found = [read(file) for file in sorted(directory.rglob("run-*.wandb"))]
    while not all(one.ended for one in found) and time.monotonic() < until:
        time.sleep(0.1)
        found = [read(file) for file in sorted(directory.rglob("run-*.wandb"))]
    return found


def read(file: Path) -> Written:
    found = Written(None, {}, [], {}, {}, [], False)
    for data in _records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            found = found._replace(run=record.run, config=found.config | config)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary.update(_items(record.summary.update))
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "exit":
            found = found._replace(ended=True)
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    place, parts = HEADER, []
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # too little left of the block for a head
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
