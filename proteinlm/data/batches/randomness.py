"""Random numbers as pure functions of their coordinates, so that no generator state has to be kept or restored.

A stream is named by a key made of whole numbers (seed, epoch, record, ...); its i-th draw is SplitMix64's i-th output
from that key (Steele, Lea and Flood 2014). The same on any machine, process count or library version.
"""

from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """First word of a key, so that no two uses share a stream."""

    ORDER = 1
    CROP = 2
    MASK = 3
    REPLACEMENT = 4
    DROPOUT = 5


def key(*words: int | np.ndarray) -> np.ndarray:
    """Keys (uint64) of streams named by `words`, which may be arrays and broadcast."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _mix(state ^ np.atleast_1d(np.asarray(word)).astype(np.uint64))
    return state


def draws(keys: np.ndarray | np.uint64, indices: np.ndarray) -> np.ndarray:
    """The draws number `indices` of the streams `keys`: 64 random bits each, uint64; the arguments broadcast."""
    return _mix(keys + indices.astype(np.uint64) * _GOLDEN)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))
