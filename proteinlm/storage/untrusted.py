"""JSON and YAML files that others may have written: bounded in size and depth, and nothing in them is run."""

import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from proteinlm.errors import InputError

MAX_JSON, MAX_YAML = 64 << 20, 1 << 20
MAX_DEPTH = 32


def read_json(file: Path) -> Any:
    """The content of a JSON file. `ValueError` if it is none, or too large or too deep."""
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{size:,} bytes, more than {MAX_JSON:,}")
    try:
        return json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_yaml(file: Path) -> Any:
    """The content of a YAML file of plain values. `InputError` if it is none, or too large or too deep, or has aliases,
    with which a small file becomes a huge value.
    """
    try:
        if (size := file.stat().st_size) > MAX_YAML:
            raise InputError(f"{file}: {size:,} bytes, more than {MAX_YAML:,}")
        depth = 0
        for event in yaml.parse(file.read_bytes(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{file}: line {event.start_mark.line + 1}: an alias, which no config needs")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InputError(f"{file}: line {event.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")
        return OmegaConf.to_object(OmegaConf.load(file))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None
