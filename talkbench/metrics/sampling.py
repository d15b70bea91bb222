"""A few frames of a clip, evenly spaced, chosen while the clip is decoded and its length is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

FINEST = 2.0**-10
"""First grid, as a part of the final interval: finer than any frame rate, so that at first every frame is taken."""

ROUNDING = 1e-6
"""Part of a grid step by which a frame may be early: times are sums of rounded numbers."""


class UniformSample(Generic[Item]):
    """Takes one frame per interval, and at least `least` frames of a clip that has as many.

    The rule: time is cut into steps of one grid, and the first frame in each step is taken. The step is the interval
    divided by a power of two: the largest at which the clip has `least + 1` to `2 * least` frames, or the interval
    itself if there are more even so. Since each grid contains the next coarser one, frames can be taken as they come
    and every second one dropped when there are too many; at most `2 * least` wait at any time, and none once the step
    is the interval. With 1 frame per second and at least 8, clips of more than 8 seconds give one frame per second, and
    shorter ones 9 to 16 frames, or all if they have fewer.

    Args:
        per_second: Frames per second of a long clip.
        least: Frames of a short clip.
    """

    def __init__(self, per_second: float, least: int) -> None:
        self._interval = 1 / per_second
        self._step = self._interval * FINEST
        self._most = 2 * least
        self._taken: list[tuple[float, Item]] = []
        self._last: int | None = None

    def offer(self, at: float, make: Callable[[], Item]) -> list[tuple[float, Item]]:
        """Offer the next frame; return those that are now certain to belong to the sample, with their times.

        Args:
            at: Display time in seconds, not before the previous frame's.
            make: Called if the frame is taken; returns what shall be kept of it.
        """
        place = self._place(at)
        if place == self._last:
            return []
        self._last = place
        self._taken.append((at, make()))
        while len(self._taken) > self._most and self._step < self._interval:
            self._coarsen()
        return self.rest() if self._step >= self._interval else []

    def rest(self) -> list[tuple[float, Item]]:
        """Return, at the end of the clip, the frames that waited."""
        taken, self._taken = self._taken, []
        return taken

    def _place(self, at: float) -> int:
        return int(at / self._step + ROUNDING)

    def _coarsen(self) -> None:
        self._step *= 2
        first: dict[int, tuple[float, Item]] = {}
        for at, item in self._taken:
            first.setdefault(self._place(at), (at, item))
        self._taken = list(first.values())
        self._last = max(first)
