#!/usr/bin/env bash
# pyhmmer 0.12.3 (Easel): a dot inside an unaligned FASTA sequence is read as a gap symbol that counts as a position; a hyphen
# is refused; a stop in the middle is kept.
#
# Expected was that both gap letters are refused, or both dropped.
# Seen, with digital=True: MK.TA has length 5 and reads back as MK-TA; MK-TA raises "illegal character -"; MK*TA has length 5.
# A Pfam entry whose insert gaps were not removed therefore gets longer, without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pyhmmer==0.12.3 2> /dev/null
venv/bin/python - << 'PYTHON'
import io

from pyhmmer.easel import Alphabet, SequenceFile


def read(letters):
    text = io.BytesIO(f">protein\n{letters}\n".encode())
    with SequenceFile(text, format="fasta", digital=True, alphabet=Alphabet.amino()) as file:
        (record,) = file
    return len(record), record.textize().sequence


print("MK.TA ->", read("MK.TA"))
print("MK*TA ->", read("MK*TA"))
assert read("MK.TA") == (5, "MK-TA")
assert read("MK*TA") == (5, "MK*TA")
try:
    read("MK-TA")
except ValueError as error:
    print("MK-TA ->", error)
    assert "illegal character -" in str(error)
else:
    raise AssertionError("a hyphen was read")
PYTHON
echo "as stated: $(basename "$0")"
