#!/usr/bin/env bash
# lmdb 3.0.0: one process cannot open an environment twice, even for reading; 1.8 allowed it.
#
# Expected was two read-only handles, as programs that open TAPE's files once for each data set have always made them.
# Seen: the second lmdb.open of the same path raises lmdb.Error until the first is closed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check lmdb==3.0.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import lmdb

with lmdb.open("data.lmdb", subdir=False) as environment, environment.begin(write=True) as transaction:
    transaction.put(b"0", b"protein")
first = lmdb.open("data.lmdb", subdir=False, readonly=True, lock=False)
try:
    lmdb.open("data.lmdb", subdir=False, readonly=True, lock=False)
except lmdb.Error as error:
    print(type(error).__name__, error)
else:
    raise AssertionError("a second handle was given")
first.close()
lmdb.open("data.lmdb", subdir=False, readonly=True, lock=False).close()
PYTHON
echo "as stated: $(basename "$0")"
