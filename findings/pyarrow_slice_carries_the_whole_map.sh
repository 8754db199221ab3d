#!/usr/bin/env bash
# pyarrow 26.0.1: ten rows of a memory-mapped table take as many bytes to send to another process as the whole file.
#
# Expected was that pickling a slice sends the slice, or a reference to the file.
# Seen: a file of 200,000 rows and 20.8 MB; pickled, the table is 20.8 MB and so is its slice of ten rows, whichever protocol.
# Data loaders whose workers are spawned or come from a fork server (the default on Linux from Python 3.14 on) therefore send the
# whole corpus to every worker, unless the data set is pickled by the path of its file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pyarrow==26.0.1 2> /dev/null
venv/bin/python - << 'PYTHON'
import pickle

import pyarrow as pa

table = pa.table({"sequence": pa.array(["A" * 100] * 200_000)})
with pa.OSFile("proteins.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as sink:
    sink.write_table(table)
mapped = pa.ipc.open_file(pa.memory_map("proteins.arrow")).read_all()
for protocol in (4, 5):
    whole, ten = (len(pickle.dumps(rows, protocol)) for rows in (mapped, mapped.slice(0, 10)))
    print("protocol", protocol, "whole", whole, "ten rows", ten)
    assert whole > 20_000_000
    assert ten > 20_000_000
copied = mapped.slice(0, 10).take(list(range(10)))
print("ten rows, copied first", len(pickle.dumps(copied)))
assert len(pickle.dumps(copied)) < 10_000
PYTHON
echo "as stated: $(basename "$0")"
