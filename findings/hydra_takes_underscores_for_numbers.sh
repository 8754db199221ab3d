#!/usr/bin/env bash
# hydra-core 1.3.8: a text option is read as a number first, and the text that it is turned back into may be another.
#
# Expected was that a field of type str holds the characters of the command line.
# Seen, for a field `name: str`: 1_0 becomes 10, 2026_11_28 becomes 20261128, 1e5 becomes 100000.0, so that two runs that were named
# differently share a name. True becomes True, null becomes None (a str field refuses it). Quoted for Hydra, name='"1_0"', it stays.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hydra-core==1.3.8 omegaconf==2.3.1 2> /dev/null
venv/bin/python - << 'PYTHON'
from dataclasses import dataclass

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore


@dataclass
class Run:
    name: str = "default"


ConfigStore.instance().store("run", Run)
with initialize(version_base="1.3", config_path=None):
    for typed, held in (("1_0", "10"), ("2026_11_28", "20261128"), ("1e5", "100000.0"), ('"1_0"', "1_0"), ("a_1", "a_1")):
        found = compose("run", [f"name={typed}"]).name
        print(typed, "->", repr(found))
        assert found == held
PYTHON
echo "as stated: $(basename "$0")"
