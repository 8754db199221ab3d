"""Find close relatives among proteins: shared words of six residues propose them, and an alignment decides.

A relative shares some identity over most of the shorter of the two. Proposed are pairs with `FEWEST` words in common, which
finds nearly all relatives above 70 % identity, and fewer the less alike they are. Needs numpy alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from proteinlm.data.similarity.alignment import align, overlap

WORD, FEWEST, PROPOSED = 6, 3, 3
"""Residues of a word, words in common, and targets aligned with each query."""
COVERED = 0.8
"""Share of the shorter protein that an alignment must have."""
COMMON = 32
"""Targets remembered for a word: variants of one protein all have the same words."""
_LETTERS = 21  # the twenty, and one for all others
_CODE = np.full(256, _LETTERS - 1, np.int64)
_CODE[np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)] = np.arange(20)
_QUERIES, _PAIRS = 4096, 1024  # handled at once
_SHIFT = 1 << 14  # above any length that is compared
MAX_LENGTH = 4000


class Hits(NamedTuple):
    """Relatives: places of query and target, and the identity, of each pair that was aligned."""

    query: np.ndarray
    target: np.ndarray
    identity: np.ndarray


class Words:
    """Where each word occurs in some targets."""

    def __init__(self, targets: Sequence[np.ndarray]) -> None:
        self.targets = [letters[:MAX_LENGTH] for letters in targets]
        words, owners, places = _words(self.targets)
        order = np.argsort(words, kind="stable")
        words, owners, places = words[order], owners[order], places[order]
        rank = np.arange(len(words)) - np.searchsorted(words, words)  # among the occurrences of the same word
        kept = rank < COMMON
        words, self.owners, self.places = words[kept], owners[kept], places[kept]
        self.words, self.begins = np.unique(words, return_index=True)
        self.ends = np.append(self.begins[1:], len(words))
        self.there = np.zeros(_LETTERS**WORD, bool)
        self.there[self.words] = True

    def relatives(self, queries: Sequence[np.ndarray]) -> Hits:
        """Pairs of a query and a target, the most promising of each query, with their identity, 0 if not `COVERED`."""
        found = [self._block(queries[first : first + _QUERIES], first) for first in range(0, len(queries), _QUERIES)]
        return Hits(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def propose(self, queries: Sequence[np.ndarray]) -> np.ndarray:
        """Places of the queries that share enough words with any target to be aligned with it."""
        blocks = range(0, len(queries), _QUERIES)
        found = [first + np.unique(self._proposed(queries[first : first + _QUERIES])[0]) for first in blocks]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _block(self, queries: Sequence[np.ndarray], first: int) -> Hits:
        queries = [letters[:MAX_LENGTH] for letters in queries]
        query, target, diagonal = self._proposed(queries)
        identity = np.zeros(len(query))
        ours, theirs = [queries[q] for q in query], [self.targets[t] for t in target]
        order = np.argsort(overlap(ours, theirs, diagonal), kind="stable")  # pairs that take as long side by side
        for some in (order[begin : begin + _PAIRS] for begin in range(0, len(order), _PAIRS)):
            matches, columns = align([ours[n] for n in some], [theirs[n] for n in some], diagonal[some])
            shorter = np.array([min(len(ours[n]), len(theirs[n])) for n in some])
            identity[some] = np.where(columns >= COVERED * shorter, matches / np.maximum(columns, 1), 0.0)
        return Hits(query + first, target, identity)

    def _proposed(self, queries: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, target and best diagonal of the pairs to align."""
        words, query, place = _words([letters[:MAX_LENGTH] for letters in queries])
        kept = np.flatnonzero(self.there[words])
        words, query, place = words[kept], query[kept], place[kept]
        at = np.searchsorted(self.words, words)
        number = self.ends[at] - self.begins[at]
        occurrence = np.repeat(self.begins[at] - np.cumsum(number) + number, number) + np.arange(number.sum())
        query, place = np.repeat(query, number), np.repeat(place, number)
        target, diagonal = self.owners[occurrence], self.places[occurrence] - place
        pair = query * len(self.targets) + target
        shared, in_common = np.unique(pair * (2 * _SHIFT) + diagonal + _SHIFT, return_counts=True)
        pair, diagonal = shared // (2 * _SHIFT), shared % (2 * _SHIFT) - _SHIFT
        best = np.lexsort((-in_common, pair))
        pair, diagonal, in_common = pair[best], diagonal[best], in_common[best]
        pair, begins = np.unique(pair, return_index=True)
        total = np.add.reduceat(in_common, begins) if len(begins) else begins
        enough = total >= FEWEST
        pair, diagonal, total = pair[enough], diagonal[begins][enough], total[enough]
        query, target = pair // len(self.targets), pair % len(self.targets)
        order = np.lexsort((-total, query))
        query, target, diagonal = query[order], target[order], diagonal[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        few = rank < PROPOSED
        return query[few], target[few], diagonal[few]


def _words(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of some proteins, whose each is, and where in it."""
    parts = list(_words_of(sequences))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    words, owners, places = zip(*parts, strict=True)
    return np.concatenate(words), np.concatenate(owners), np.concatenate(places)


def _words_of(sequences: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for number, letters in enumerate(sequences):
        many = len(letters) - WORD + 1
        if many > 0:
            codes = _CODE[letters]
            words = codes[:many].copy()
            for place in range(1, WORD):
                words = words * _LETTERS + codes[place : place + many]
            yield words, np.full(many, number), np.arange(many)
