"""Confidence intervals of a mean over clips, when clips of one identity are not independent.

With `FEW_CLUSTERS` identities or more: bootstrap over identities, percentiles expanded for their number (Hesterberg,
"What Teachers Should Know About the Bootstrap", 2015, section 5.3). With fewer, where no bootstrap covers: Student's t
on the cluster-robust standard error. Chosen by simulation (normal and exponential data, 3 to 60 identities): at a
nominal 95 % the plain percentile bootstrap over identities covers 90 % with 12 identities and 73 % with 3, this rule
93 to 96 % (tests/unit/stats/test_stats.py repeats a part of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

LEVEL = 0.95
RESAMPLES = 4000
FEW_CLUSTERS = 8
SEED = 20251230

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: Mean over clips.
        low: Lower end, or None with fewer than two identities.
        high: Upper end, or None.
        num_clusters: Number of identities.
    """

    mean: float
    low: float | None
    high: float | None
    num_clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_interval(
    values: Sequence[float], clusters: Sequence[str], *, level: float = LEVEL, seed: int = SEED
) -> Interval:
    """Return the mean of `values` and its interval, resampling `clusters` (identities).

    Args:
        values: One per clip.
        clusters: The identity of each clip.
        level: Coverage aimed at.
        seed: Of the bootstrap; the same values give the same interval in any order of clips.

    Raises:
        ValueError: If there is no value.
    """
    if len(values) == 0:
        raise ValueError("no values")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    v = np.asarray(values, dtype=np.float64)
    count = np.bincount(index).astype(np.float64)
    # Sorted inside each cluster, so that sums do not depend on the order of clips.
    total = np.array([np.sort(v[index == k]).sum() for k in range(len(names))])
    mean = float(total.sum() / count.sum())
    if len(names) < 2:
        return Interval(mean, None, None, len(names))
    low, high = (
        _student(total - mean * count, count, level)
        if len(names) < FEW_CLUSTERS
        else _bootstrap(total, count, mean, level, seed)
    )
    return Interval(mean, mean + low, mean + high, len(names))


def _student(residual: Values, count: Values, level: float) -> tuple[float, float]:
    """Half widths from the cluster-robust standard error with the K / (K - 1) correction."""
    k = len(count)
    error = float(np.sqrt(k / (k - 1) * (residual**2).sum())) / float(count.sum())
    half = float(stdtrit(k - 1, 0.5 + level / 2)) * error
    return -half, half


def _bootstrap(total: Values, count: Values, mean: float, level: float, seed: int) -> tuple[float, float]:
    k = len(count)
    draws = np.random.default_rng(seed).integers(k, size=(RESAMPLES, k))
    means = total[draws].sum(axis=1) / count[draws].sum(axis=1)
    tail = float(ndtr(-np.sqrt(k / (k - 1)) * stdtrit(k - 1, 0.5 + level / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low) - mean, float(high) - mean
