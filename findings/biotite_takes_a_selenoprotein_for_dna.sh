#!/usr/bin/env bash
# biotite 1.6.0: get_sequence of a FASTA entry may turn a protein into DNA, and pyrrolysine into lysine, without a word.
#
# The function tries a nucleotide sequence first, with the ambiguity letters of nucleic acids and U read as T, and only then a
# protein, where it reads U as C, with a warning, and O as K, with none. Expected was an error or a protein.
# Seen: MKU becomes the nucleotide sequence MKT; MSDHK, whose letters are all ambiguity codes, stays as it is, as a nucleotide sequence;
# MLKO becomes the protein MLKK. ProteinSequence itself refuses U and O.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check biotite==1.6.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import warnings

import biotite.sequence as seq
from biotite.sequence.io.fasta import FastaFile, get_sequence

warnings.simplefilter("error")  # none is given for these
for letters, kind, text in [
    ("MKU", seq.NucleotideSequence, "MKT"),
    ("MSDHK", seq.NucleotideSequence, "MSDHK"),
    ("MLKO", seq.ProteinSequence, "MLKK"),
]:
    file = FastaFile()
    file["protein"] = letters
    found = get_sequence(file)
    print(letters, "->", type(found).__name__, found)
    assert type(found) is kind, kind
    assert str(found) == text
for letter in "UO":
    try:
        seq.ProteinSequence("ML" + letter)
    except seq.AlphabetError as error:
        print("ProteinSequence:", error)
    else:
        raise AssertionError(letter)
PYTHON
echo "as stated: $(basename "$0")"
