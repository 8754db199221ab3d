#!/usr/bin/env bash
# hypothesis 6.170.15: with derandomize=True, a test draws other examples once another module of the project holds new numbers.
#
# derandomize=True is there for tests that do the same at every run, and neither the test nor what it calls has changed here.
# Expected were the same examples. Seen: hypothesis takes the constants of the modules that are imported from the project's own
# files among its examples, so numbers of a module that the test only imports came up, and most other examples changed too. An
# edit anywhere can make a test fail that has nothing to do with it, and in a run of the whole suite where one of the file alone
# passes. Within one state of the files, two runs agree.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hypothesis==6.170.15 2> /dev/null
mkdir project
touch project/__init__.py
cat > project/draws.py << 'PYTHON'
import json
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

import project.other

seen = []


@given(st.integers(0, 10**9))
@settings(derandomize=True, database=None, max_examples=200)
def test(number):
    seen.append(number)


test()
json.dump(seen, sys.stdout)
PYTHON
echo "A = 1" > project/other.py
venv/bin/python -m project.draws > first.json
venv/bin/python -m project.draws > again.json
printf 'A = 1\nB = 271828182\nC = 314159265\nD = 161803398\n' > project/other.py
venv/bin/python -m project.draws > second.json
venv/bin/python - << 'PYTHON'
import json

first, again, second = (json.load(open(f"{name}.json")) for name in ("first", "again", "second"))
constants = {271828182, 314159265, 161803398}
alike = next((place for place, (one, other) in enumerate(zip(first, second)) if one != other), len(first))
print(len(first), "examples; the first", alike, "are alike; constants among them:", len(constants & {*second}))
assert first == again
assert first != second
assert constants & {*second} and not constants & {*first}
PYTHON
echo "as stated: $(basename "$0")"
