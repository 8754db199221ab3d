#!/usr/bin/env bash
# transformers 5.23.0 and fair-esm 2.0.0: what ESM's two tokenizers make of a protein with masked (lower-case) residues.
#
# Expected was one token for each letter from both, as their models need for contacts and variant effects.
# Seen: for ACDxxEF, transformers' EsmTokenizer gives one <unk> for the run xx, so that there are six residue tokens for seven
# residues and every later residue is at another place; fair-esm's batch converter raises a KeyError for xx, and for a
# protein that is all in lower case one for the whole protein. Both take the text <mask> inside a sequence for one token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 fair-esm==2.0.0 torch==2.13.0 2> /dev/null
venv/bin/python - << 'PYTHON'
import esm
from transformers import EsmTokenizer

LETTERS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
with open("vocab.txt", "w") as file:
    file.write("\n".join(LETTERS))
theirs = EsmTokenizer("vocab.txt")
ids = theirs("ACDxxEF")["input_ids"]
print(theirs.convert_ids_to_tokens(ids))
assert theirs.convert_ids_to_tokens(ids) == ["<cls>", "A", "C", "D", "<unk>", "E", "F", "<eos>"]

convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter()
for letters, missing in (("ACDxxEF", "'xx'"), ("acdef", "'acdef'")):
    try:
        convert([("protein", letters)])
    except KeyError as error:
        print("fair-esm", letters, "KeyError", error)
        assert str(error) == missing
    else:
        raise AssertionError(letters)
assert convert([("protein", "AC<mask>EF")])[2].shape == (1, 7)
PYTHON
echo "as stated: $(basename "$0")"
