"""Counter-based randomness: the value at an index depends on the seed and that index, on nothing before it.

Streams of ordinary generators must be drawn in order; here value number ten million costs the same as number
one, which makes poses and voices of any length reproducible from any point. Streams never repeat in practice
(period 2^64 in the index).

Mixing function: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * _MIX_A
    words = (words ^ (words >> np.uint64(27))) * _MIX_B
    return words ^ (words >> np.uint64(31))


def stream_key(seed: int, *labels: int) -> int:
    """Return a 64-bit key for one stream of a seed; different labels give unrelated streams."""
    key = np.array([seed & _MASK], dtype=np.uint64)
    for label in (0, *labels):
        key = _mix(key * _WEYL + np.uint64((label + 1) & _MASK))
    return int(key[0])


def uniform(key: int, index: ArrayLike) -> NDArray[np.float64]:
    """Return values in [0, 1), one per integer in `index`, same shape; index may be negative."""
    counters = np.atleast_1d(np.asarray(index, dtype=np.int64)).view(np.uint64)
    words = _mix(_mix(counters * _WEYL + np.uint64(key)) + _WEYL)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smooth(key: int, seconds: NDArray[np.float64], period_seconds: float) -> NDArray[np.float64]:
    """Return aperiodic noise in [-1, 1], twice continuously differentiable in time.

    A cubic B-spline over hashed coefficients, one every `period_seconds`, then spread by an odd cubic that
    keeps the bounds.
    """
    position = seconds / period_seconds
    knot = np.floor(position).astype(np.int64)
    t = position - knot
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    total = np.zeros_like(position)
    for offset, weight in enumerate(weights):
        total += weight * (2.0 * uniform(key, knot + offset - 1) - 1.0)
    total /= 6.0
    return 1.5 * total - 0.5 * total**3


def smoothstep(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map 0..1 to 0..1 with zero slope at both ends; clamp outside."""
    t = np.clip(values, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
