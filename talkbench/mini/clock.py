"""The one convention of time: frame k stands for the middle of its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frame_seconds(first: int, stop: int, frame_rate: float) -> NDArray[np.float64]:
    """Return the times (k + 0.5) / frame_rate of frames first, ..., stop - 1; float64 [stop - first].

    Raises:
        ValueError: If `stop` is before `first` or `frame_rate` not positive.
    """
    if stop < first or not frame_rate > 0:
        raise ValueError(f"frames {first}..{stop} at {frame_rate} per second: expected a count >= 0 and a rate > 0.")
    seconds: NDArray[np.float64] = (np.arange(first, stop, dtype=np.float64) + 0.5) / frame_rate
    return seconds
