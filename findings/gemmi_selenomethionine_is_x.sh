#!/usr/bin/env bash
# gemmi 0.7.5: one_letter_code gives X for modified residues whose parent the same library knows.
#
# Expected was M for selenomethionine (MSE), S for phosphoserine (SEP), as in the canonical sequence of mmCIF.
# Seen: one_letter_code(["MSE", "SEP", "HYP"]) is XXX, while find_tabulated_residue("MSE").one_letter_code is a lower-case m and
# fasta_code() of the same entry is X. Sequences taken from coordinates in that way do not match those of the data base.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check gemmi==0.7.5 2> /dev/null
venv/bin/python - << 'PYTHON'
import gemmi

print(gemmi.one_letter_code(["MET", "MSE", "SEP", "HYP", "SEC", "PYL"]))
assert gemmi.one_letter_code(["MET", "MSE", "SEP", "HYP", "SEC", "PYL"]) == "MXXXUO"
for name, letter in (("MSE", "m"), ("SEP", "s"), ("MET", "M")):
    known = gemmi.find_tabulated_residue(name)
    print(name, known.one_letter_code, known.fasta_code())
    assert known.one_letter_code == letter
assert gemmi.find_tabulated_residue("MSE").fasta_code() == "X"
PYTHON
echo "as stated: $(basename "$0")"
