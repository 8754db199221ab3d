"""Residues, special tokens and states of secondary structure: the only module that knows their ids.

The 31 tokens of ProteinLM's ``iupac_vocab.txt``, with its ids, so that its checkpoints can be read. The embedding
has 128 rows (`ModelConfig.vocab_size`): Megatron pads the vocabulary to a multiple of 128.
"""

import numpy as np

from proteinlm.errors import InputError

PAD, MASK, CLS, SEP, UNK = range(5)
TOKENS = ("[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]", "[unused1]", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
RESIDUES = "".join(TOKENS[6:])  # 25 letters: every capital but J
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"  # the 20 standard ones

UNKNOWN_LETTER = "?"
"""Stands for [UNK] in stored letters (`proteinlm.data.formats.letters`); no file may hold it as a residue."""

SS8, SS3 = "GHIBESTC", "HEC"
"""Letters of the eight states of DSSP and of the three they are joined to, in the order of TAPE's codes."""
SS3_OF_SS8 = np.array([0, 0, 0, 1, 1, 2, 2, 2], dtype=np.int32)  # helices, strands, the rest

IDS = {token: index for index, token in enumerate(TOKENS)}
AMINO_ACID_IDS = np.array([IDS[letter] for letter in AMINO_ACIDS], dtype=np.uint8)

_INVALID = 255
_ID_OF_BYTE = np.full(256, _INVALID, dtype=np.uint8)  # ASCII code, either case -> token id
for _letter in RESIDUES:
    _ID_OF_BYTE[[ord(_letter), ord(_letter.lower())]] = IDS[_letter]
_ID_OF_STORED = _ID_OF_BYTE.copy()
_ID_OF_STORED[ord(UNKNOWN_LETTER)] = UNK


def encode_bytes(residues: np.ndarray) -> np.ndarray:
    """Token ids (N,) uint8 of ASCII letters (N,) uint8 that are valid (`first_invalid`) or `UNKNOWN_LETTER`."""
    return _ID_OF_STORED[residues]


def first_invalid(residues: np.ndarray) -> int | None:
    """Index of the first byte that is no residue letter in (N,) uint8, or None."""
    invalid = _ID_OF_BYTE[residues] == _INVALID
    return int(invalid.argmax()) if invalid.any() else None


def encode(sequence: str, *, unknown_as_unk: bool = False) -> np.ndarray:
    """Token ids (L,) uint8 of a protein, without [CLS]. Lower case is accepted.

    A letter outside the 25 (J, ``*``, ``-``, digits) raises `InputError` with its position, counted from 1;
    with `unknown_as_unk` it becomes [UNK].
    """
    letters = np.frombuffer(sequence.encode("utf-32-le"), dtype=np.uint32)
    ids = np.where(letters < 256, _ID_OF_BYTE[np.minimum(letters, 255)], _INVALID).astype(np.uint8)
    invalid = ids == _INVALID
    if invalid.any():
        if not unknown_as_unk:
            position = int(invalid.argmax())
            raise InputError(f"letter {sequence[position]!r} at position {position + 1} is not one of {RESIDUES}")
        ids[invalid] = UNK
    return ids


def decode(ids: np.ndarray) -> str:
    """Letters of residue ids; special tokens appear by their names in brackets."""
    return "".join(TOKENS[index] for index in ids)
