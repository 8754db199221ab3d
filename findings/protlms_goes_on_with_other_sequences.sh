#!/usr/bin/env bash
# protlms 0.1.0: a chunked run that goes on takes finished chunks of other sequences for its own if the names are the same.
#
# The manifest of a run has a fingerprint of its input, and a run of other input in the same directory is refused. The
# fingerprint is of the names alone. Expected was that changed sequences are refused, or computed.
# Seen: after a run over a, b and c, a run over the same names with other sequences computes nothing and returns the first results.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check protlms==0.1.0 2> /dev/null
venv/bin/python - << 'PYTHON'
from pathlib import Path

from protlms.chunking import run_chunked
from protlms.contract import OutputArtifact, Result
from protlms.io import FastaRecord

computed = []


def compute(records, directory):
    """Stands in for the container of a model: writes the sequence itself as the score."""
    directory.mkdir(parents=True, exist_ok=True)
    computed.extend(record.sequence for record in records)
    lines = ["id,score", *(f"{record.id},{record.sequence}" for record in records)]
    (directory / "likelihoods.csv").write_text("\n".join(lines) + "\n")
    result = Result(
        contract_version="1",
        capability="likelihood",
        model_name="model",
        n_input_records=len(records),
        n_output_records=len(records),
        artifacts=[OutputArtifact(path="likelihoods.csv", kind="likelihoods_csv", record_ids=[r.id for r in records])],
        warnings=[],
        params={},
    )
    (directory / "result.json").write_text(result.model_dump_json())
    return result


def run(**sequences):
    records = [FastaRecord(name, name, letters) for name, letters in sequences.items()]
    run_chunked(capability="likelihood", records=records, chunk_size=1, output_dir=Path("out"), run_chunk=compute)
    return Path("out/likelihoods.csv").read_text().split()


first = run(a="MKTA", b="MKTC", c="MKTD")
second = run(a="WWWW", b="YYYY", c="FFFF")
print(first, second, computed)
assert computed == ["MKTA", "MKTC", "MKTD"]
assert second == first
PYTHON
echo "as stated: $(basename "$0")"
