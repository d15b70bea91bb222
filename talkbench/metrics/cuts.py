"""Cuts between scenes: where the picture changes at once in hue, saturation and brightness.

PySceneDetect's ContentDetector as the official sync pipeline calls it, equal to version 0.6.7.1 in every cut
(Breakthrough/PySceneDetect: detectors/content_detector.py, scene_detector.py, `FlashFilter`): on frames with a long
side of 256 pixels, mean absolute difference of 8-bit hue, saturation and value, averaged over the three, 27 or more.
Talking heads have no cuts; compilations do.

A change within 15 frames of the one before is no cut. The first such change after a cut opens a burst, in which nothing
is a cut until changes have gone on for 15 frames and then stopped for 15; the last of them is the cut. So a flash soon
after a cut opens a burst that a cut much later closes, and that cut is known 15 frames late.

Legend: H, W rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import Frames
from talkbench.metrics.crops import resize

_FRACTION_BITS = 12


@dataclass(frozen=True)
class CutParams:
    """When a frame begins a new scene.

    Attributes:
        threshold: Least mean change in 8-bit levels.
        min_scene_frames: Least distance from the change before, or the start.
        long_side_px: Larger frames are reduced to this first.
    """

    threshold: float = 27.0
    min_scene_frames: int = 15
    long_side_px: int = 256


@cache
def _quotients(numerator: float) -> NDArray[np.int32]:
    """Return `numerator` / n for n = 0 to 255 in 1/4096, 0 for n = 0."""
    found = np.zeros(256, np.int32)
    found[1:] = np.rint(numerator * (1 << _FRACTION_BITS) / np.arange(1, 256))
    return found


def _rounded(fixed: NDArray[np.int32]) -> NDArray[np.int32]:
    return (fixed + (1 << _FRACTION_BITS - 1)) >> _FRACTION_BITS


def hue_saturation_value(image_HWC: Frames) -> Frames:
    """Return OpenCV's 8-bit HSV in its own fixed-point arithmetic: hue 0 to 179, the others 0 to 255. [H, W, 3]."""
    red, green, blue = np.moveaxis(image_HWC.astype(np.int32), -1, 0)
    value = image_HWC.max(axis=-1).astype(np.int32)
    spread = value - image_HWC.min(axis=-1)
    sector = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = _rounded(sector * _quotients(30.0)[spread])
    saturation = _rounded(spread * _quotients(255.0)[value])
    return np.stack([hue + 180 * (hue < 0), saturation, value], axis=-1).astype(np.uint8)


class Cuts:
    """Looks at every frame once, in order."""

    def __init__(self, params: CutParams = CutParams()) -> None:
        self._params = params
        self._previous: Frames | None = None
        self._number = -1
        self._last_change = 0
        self._any_cut = False
        self._burst_start: int | None = None

    def look(self, frame_HWC: Frames) -> int | None:
        """Return which frame is now known to begin a scene: this one or one `min_scene_frames` earlier, mostly none."""
        least = self._params.min_scene_frames
        self._number += 1
        changed = self._change(frame_HWC) >= self._params.threshold
        quiet = self._number - self._last_change >= least
        if changed:
            self._last_change = self._number
        if self._burst_start is not None:
            if changed or not quiet or self._last_change - self._burst_start < least:
                return None
            self._burst_start = None
            return self._last_change
        if changed and quiet:
            self._any_cut = True
            return self._number
        if changed and self._any_cut:
            self._burst_start = self._number
        return None

    def _change(self, frame_HWC: Frames) -> float:
        """Return how much the picture differs from the one before, in levels; 0 for the first."""
        height, width = frame_HWC.shape[:2]
        factor = max(height, width) / self._params.long_side_px
        if factor > 1:
            frame_HWC = resize(frame_HWC, max(1, round(height / factor)), max(1, round(width / factor)))
        before, self._previous = self._previous, hue_saturation_value(frame_HWC)
        if before is None:
            return 0.0
        return float(np.abs(self._previous.astype(np.int16) - before).mean(axis=(0, 1)).sum()) / 3
