"""A metric along the clip: per-frame terms, their mean, and the windows that are stored."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from talkbench.schema import Windows

WINDOW_SECONDS = 1.0
SIGNIFICANT_DIGITS = 7


class Terms:
    """Grows by 16 bytes a frame: 5 hours at 25 fps are 7 MB."""

    def __init__(self) -> None:
        self._values = array("d")
        self._seconds = array("d")

    def add(self, values: Iterable[float], seconds: Iterable[float]) -> None:
        """Append terms and the display time each belongs to."""
        self._values.extend(values)
        self._seconds.extend(seconds)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values_T(self) -> NDArray[np.float64]:
        """All terms, [T]."""
        return np.array(self._values)

    @property
    def seconds_T(self) -> NDArray[np.float64]:
        """Their times, [T]."""
        return np.array(self._seconds)

    def mean(self) -> float:
        """Return the mean of all terms."""
        return float(self.values_T.mean())

    def windows(self, seconds: float = WINDOW_SECONDS) -> Windows:
        """Return the mean term of each window of `seconds`; None where a window holds no term."""
        index = np.floor(self.seconds_T / seconds + 1e-9).astype(np.int64)
        count = np.bincount(index)
        total = np.bincount(index, weights=self.values_T)
        means = [float(f"{t / n:.{SIGNIFICANT_DIGITS}g}") if n else None for t, n in zip(total, count, strict=True)]
        return Windows(seconds=seconds, values=tuple(means))
