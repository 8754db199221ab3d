"""Draw splits that keep relatives together: whole clusters of similar sequences, which are found greedily.

Proteins are taken from the longest to the shortest; each joins the earlier representative with which it shares most words
of `WORD` residues, if they are enough, or becomes one itself. (CD-HIT does so with words as a filter and then aligns, Li &
Godzik 2006, doi 10.1093/bioinformatics/btl158; here the words decide.) Of two proteins that agree in a share p of their
residues, independently, p^WORD of the words agree: that share of the shorter one's words is what `identity` asks for. Real
substitutions come in patches, which leave more words, so that proteins somewhat below the identity join too.

The limits: what is alike only below some 40 % is not seen; members of a cluster resemble their representative, not always
each other; a common tag counts as likeness; proteins shorter than a word join their equals alone.

N proteins, C clusters.
"""

import math
from array import array
from collections.abc import Sequence

import numpy as np

from proteinlm.errors import InputError

WORD = 4  # residues: two unrelated proteins of 300 share half a word by chance, related ones at 50 % identity about 19


def clusters(sequences: Sequence[str], identity: float) -> np.ndarray:
    """The number of each protein's representative, (N,) int64; `identity` 1 joins equal proteins alone."""
    representative = np.arange(len(sequences))
    first: dict[str, int] = {}
    holders: dict[str, array] = {}  # the representatives that have a word
    for number in sorted(range(len(sequences)), key=lambda number: -len(sequences[number])):
        sequence = sequences[number]
        words = {sequence[place : place + WORD] for place in range(len(sequence) - WORD + 1)}
        found = first.setdefault(sequence, number)
        if found == number and identity < 1:
            found = _most_alike(words, holders, identity, number)
        representative[number] = representative[found]
        if representative[number] == number:
            for word in words:
                holders.setdefault(word, array("q")).append(number)
    return representative


def _most_alike(words: set[str], holders: dict[str, array], identity: float, number: int) -> int:
    """The representative that shares most of the `words`, or `number` if none shares enough."""
    shared = [np.frombuffer(holders[word], np.int64) for word in words if word in holders]
    if not shared:
        return number
    candidates, counts = np.unique(np.concatenate(shared), return_counts=True)
    best = counts.argmax()
    return int(candidates[best]) if counts[best] >= math.ceil(len(words) * identity**WORD) else number


def draw_splits(cluster: np.ndarray, valid: float, test: float, seed: int) -> np.ndarray:
    """``train``, ``valid`` or ``test`` for each protein (N,) of the clusters (N,): whole clusters, drawn by `seed`.

    A cluster that would make a split larger than its share goes to the next, training last; so the splits are near their
    shares, or below. `InputError` if one that has a share gets nothing.
    """
    names, members = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(members)
    wanted = {"test": round(test * len(cluster)), "valid": round(valid * len(cluster))}
    split = np.full(len(names), "train", dtype="<U5")
    for place in np.random.default_rng(seed).permutation(len(names)):
        for name, room in wanted.items():
            if sizes[place] <= room:
                split[place] = name
                wanted[name] = room - int(sizes[place])
                break
    for name, share in (("train", 1.0), ("valid", valid), ("test", test)):
        if share and name not in split:
            raise InputError(
                f"{len(cluster):,} proteins in {len(names):,} clusters of similar sequences leave nothing for {name}: "
                f"add a split column, or draw with data.identity nearer to 1"
            )
    return split[members]
