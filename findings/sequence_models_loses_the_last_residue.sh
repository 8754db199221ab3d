#!/usr/bin/env bash
# sequence-models 1.8.0: read_fasta drops the last residue of a file that does not end in a newline; parse_fasta keeps it.
#
# Both read FASTA in the same module. Expected was the same sequences of both.
# Seen: of a file whose last line is MKTW without a newline, parse_fasta gives MKTW and read_fasta writes MKT.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sequence-models==1.8.0 pandas==3.1.1 scipy==1.17.1 2> /dev/null
venv/bin/python - << 'PYTHON'
from pathlib import Path

from sequence_models.utils import parse_fasta, read_fasta

Path("proteins.fasta").write_text(">a\nMKTA\n>b\nMKTW")
read_fasta("proteins.fasta", "sequences.csv")
written = Path("sequences.csv").read_text().split()
print(parse_fasta("proteins.fasta"), written)
assert parse_fasta("proteins.fasta") == ["MKTA", "MKTW"]
assert written == ["sequence", "MKTA", "MKT"]
PYTHON
echo "as stated: $(basename "$0")"
