"""Frames in groups of a fixed size, so that a network's batches never depend on how the clip was decoded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import FrameBatch, Frames


class Regroup:
    """Collects frames and hands them out `size` at a time.

    Args:
        size: Frames per group; only the last group of a clip is smaller.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._frames: list[Frames] = []
        self._seconds: list[float] = []

    def push(self, batch: FrameBatch) -> Iterator[tuple[Frames, NDArray[np.float64]]]:
        """Yield the groups that `batch` completes: frames_THWC and their display times."""
        for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T, strict=True):
            self._frames.append(frame_HWC)
            self._seconds.append(float(at))
            if len(self._frames) == self._size:
                yield from self.flush()
        # What waits must not keep the whole batch alive; what waited before has been copied.
        if new := min(len(batch.frames_THWC), len(self._frames)):
            self._frames[-new:] = [frame.copy() for frame in self._frames[-new:]]

    def flush(self) -> Iterator[tuple[Frames, NDArray[np.float64]]]:
        """Yield what waits, if anything does."""
        if self._frames:
            frames, seconds = self._frames, self._seconds
            self._frames, self._seconds = [], []
            yield np.stack(frames), np.array(seconds)
